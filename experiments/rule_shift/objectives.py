"""What each method minimises: rows in, model outputs made, a loss of `rlrazor.losses` applied.

`prepare` runs once an iteration, under the policy that the iteration began with; `loss` on every
minibatch of it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from experiments.general_points.language import answer_logprobs
from experiments.rule_shift.batches import Rows
from rlrazor.losses.dft import dft
from rlrazor.losses.dpo import dpo
from rlrazor.losses.gspo import gspo
from rlrazor.losses.kl_penalty import kl_penalty
from rlrazor.losses.nll import nll
from rlrazor.losses.on_policy_distillation import on_policy_distillation
from rlrazor.losses.ppo_clip import ppo_clip
from rlrazor.losses.ppo_clip_fallback import ppo_clip_fallback
from rlrazor.losses.psft import psft
from rlrazor.losses.reinforce import reinforce
from rlrazor.losses.sdft import sdft
from rlrazor.losses.simpo import simpo
from rlrazor.losses.value_loss import value_loss
from rlrazor.models.transformer import Transformer
from rlrazor.models.value_head import ValueHead
from rlrazor.ops.advantages import whitened
from rlrazor.ops.aggregate import scaled_sum, sequence_mean, token_mean
from rlrazor.ops.returns import gae
from rlrazor.tasks.general_points.pieces import FORMULA, PIECES
from rlrazor.types import Metrics, Params, Vocabulary


@struct.dataclass
class Others:
    """Weights beside the policy's that a method may read; None where it does not."""

    base: Params | None = None
    teacher: Params | None = None
    average: Params | None = None  # moving average of the policy


@dataclasses.dataclass(frozen=True)
class Context:
    """What every objective may need and no array is."""

    model: Transformer
    critic: ValueHead
    knobs: Any  # config.objective
    answer_size: int
    formula_token: int  # what precedes it in an answer, the released PPO counts half

    def hidden(self, params: Params, tokens: jax.Array) -> jax.Array:
        return self.model.apply(params, tokens)[0]  # type: ignore

    def log_policy(self, params: Params, hidden: jax.Array) -> jax.Array:  # f32[B, T - 1, V]
        logits: Any = self.model.apply(params, hidden[:, :-1], method="logits")
        return jax.nn.log_softmax(logits)

    def distributions(self, params: Params, tokens: jax.Array) -> jax.Array:  # f32[B, T - 1, V]
        """Entry t holds the log-probabilities of token t + 1."""
        return self.log_policy(params, self.hidden(params, tokens))

    def logprobs(self, params: Params, tokens: jax.Array) -> jax.Array:  # f32[B, T]
        return answer_logprobs(self.model, params, tokens)


def make_context(model: Transformer, words: Vocabulary, config: Any) -> Context:
    """ValueError if the vocabulary has no single symbol for what precedes the formula."""
    formula = words.encode_inside(PIECES[FORMULA])
    if len(formula) != 1:
        raise ValueError(f"{PIECES[FORMULA]!r} is {len(formula)} tokens; PPO wants it to be one")
    critic = ValueHead(tuple(config.objective.ppo.widths))
    return Context(model, critic, config.objective, config.answer_tokens, formula[0])


def of_tokens(log_policy: jax.Array, tokens: jax.Array) -> jax.Array:  # f32[B, T]; first 0
    chosen = jnp.take_along_axis(log_policy, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.pad(chosen, ((0, 0), (1, 0)))


Loss = Callable[[Context, Params, Others, Rows], tuple[jax.Array, Metrics]]
Prepare = Callable[[Context, Params, Others, Rows], Any]


def _tokens(rows: Rows) -> jax.Array:
    return jnp.sum(rows.mask)


def _answers(rows: Rows) -> jax.Array:
    return jnp.sum(jnp.any(rows.mask, axis=1))


def _turns(rows: Rows) -> jax.Array:
    return jnp.sum(rows.played)  # type: ignore


@dataclasses.dataclass(frozen=True)
class Objective:
    loss: Loss
    prepare: Prepare = lambda context, params, others, rows: None
    weight: Callable[[Rows], jax.Array] = _tokens  # what the loss is a mean over


def _policy(params: Params) -> Params:
    return params["policy"]


def _per_token(rows: Rows) -> jax.Array:  # f32[B, T]
    return jnp.broadcast_to(rows.advantages[:, None], rows.tokens.shape)  # type: ignore


# Likelihood and its relatives


def _nll(context, params, others, rows):
    return nll(context.logprobs(_policy(params), rows.tokens), rows.mask)


def _dft(context, params, others, rows):
    return dft(context.logprobs(_policy(params), rows.tokens), rows.mask)


def _psft(context, params, others, rows):
    logprobs = context.logprobs(_policy(params), rows.tokens)
    return psft(logprobs, rows.added, rows.mask, clip_high=context.knobs.psft.clip_high)


def _policy_logprobs(context, params, others, rows):
    return context.logprobs(_policy(params), rows.tokens)


def _anchored_nll(context, params, others, rows):
    log_policy = context.distributions(_policy(params), rows.tokens)
    log_base = jax.lax.stop_gradient(context.distributions(others.base, rows.tokens))
    loss, metrics = nll(of_tokens(log_policy, rows.tokens), rows.mask)
    anchor, _ = kl_penalty(log_base, log_policy, rows.mask[:, 1:])
    return loss + context.knobs.anchor.coefficient * anchor, metrics


def _simpo(context, params, others, rows):
    wrong, wrong_mask = rows.rejected
    return simpo(
        context.logprobs(_policy(params), rows.tokens),
        rows.mask,
        context.logprobs(_policy(params), wrong),
        wrong_mask,
        **context.knobs.simpo,
    )


def _dpo(context, params, others, rows):
    wrong, wrong_mask = rows.rejected
    right_base, wrong_base = rows.added
    return dpo(
        context.logprobs(_policy(params), rows.tokens),
        right_base,
        rows.mask,
        context.logprobs(_policy(params), wrong),
        wrong_base,
        wrong_mask,
        **context.knobs.dpo,
    )


def _base_of_pairs(context, params, others, rows):
    return tuple(
        context.logprobs(others.base, tokens) for tokens in (rows.tokens, rows.rejected[0])
    )


# Learning from reward


def _clipped(context, params, rows, *, aggregate, clip_low, clip_high):
    log_policy = context.distributions(_policy(params), rows.tokens)
    loss, metrics = ppo_clip(
        of_tokens(log_policy, rows.tokens),
        rows.behaviour_logprobs,
        _per_token(rows),
        rows.mask,
        clip_low=clip_low,
        clip_high=clip_high,
        aggregate=aggregate,
    )
    return loss, metrics, log_policy


def _dr_grpo(context, params, rows):
    def aggregate(x, mask):
        return scaled_sum(x, mask, length=context.answer_size)

    return _clipped(context, params, rows, aggregate=aggregate, **context.knobs.grpo)


def _grpo(context, params, others, rows):
    """The loss of Dr. GRPO, which RL's Razor uses and calls GRPO."""
    return _dr_grpo(context, params, rows)[:2]


def _grpo_std(context, params, others, rows):
    return _clipped(context, params, rows, aggregate=sequence_mean, **context.knobs.grpo)[:2]


def _dapo(context, params, others, rows):
    return _clipped(context, params, rows, aggregate=token_mean, **context.knobs.dapo)[:2]


def _anchored_grpo(context, params, others, rows):
    loss, metrics, log_policy = _dr_grpo(context, params, rows)
    log_base = jax.lax.stop_gradient(context.distributions(others.base, rows.tokens))
    # The penalty is a mean over tokens, the loss a sum over them: one scale for both.
    anchor, _ = kl_penalty(log_policy, log_base, rows.mask[:, 1:])
    scale = jnp.sum(rows.mask) / (len(rows.mask) * context.answer_size)
    return loss + context.knobs.kl.coefficient * scale * anchor, metrics


def _rloo(context, params, others, rows):
    """Clipped like the others, with the whole answer as one action."""
    logprobs = context.logprobs(_policy(params), rows.tokens)
    answered = jnp.any(rows.mask, axis=1, keepdims=True)

    def of_answer(x):
        return jnp.sum(jnp.where(rows.mask, x, 0.0), axis=1, keepdims=True)

    return ppo_clip(
        of_answer(logprobs),
        of_answer(rows.behaviour_logprobs),
        rows.advantages[:, None],
        answered,
        aggregate=token_mean,
        **context.knobs.grpo,
    )


def _reinforce(context, params, others, rows):
    return reinforce(context.logprobs(_policy(params), rows.tokens), rows.advantages, rows.mask)


def _gspo(context, params, others, rows):
    logprobs = context.logprobs(_policy(params), rows.tokens)
    return gspo(logprobs, rows.behaviour_logprobs, rows.advantages, rows.mask, **context.knobs.gspo)


@struct.dataclass
class _Critique:
    advantages: jax.Array  # f32[B, K]
    targets: jax.Array  # f32[B, K]
    values: jax.Array  # f32[B, K] when played


def _ppo(context, params, others, rows):
    """PPO of SFT Memorizes, RL Generalizes: a turn is an action, the critic shares the trunk."""
    knobs, seen = context.knobs.ppo, rows.added
    hidden = context.hidden(_policy(params), rows.tokens)
    logprobs = of_tokens(context.log_policy(_policy(params), hidden), rows.tokens)
    policy_loss, metrics = ppo_clip_fallback(
        _of_turns(context, logprobs, rows),
        _of_turns(context, rows.behaviour_logprobs, rows),
        seen.advantages,
        rows.played,
        clip_low=knobs.clip,
        clip_high=knobs.clip,
        fallback_above=knobs.fallback_above,
        aggregate=token_mean,
    )
    values = _values(context, params, hidden, rows)
    critic_loss, of_critic = value_loss(
        values, seen.values, seen.targets, rows.played, clip=knobs.clip
    )
    metrics = {**metrics, "value_error": of_critic["squared_error"] / of_critic["turns"]}
    return policy_loss + knobs.value_coefficient * critic_loss, metrics


def _criticise(context, params, others, rows):
    """GAE over turns. The turn budget is part of the task: nothing is to be had behind it."""
    knobs = context.knobs.ppo
    values = _values(context, params, context.hidden(_policy(params), rows.tokens), rows)
    ends = rows.played & ~jnp.pad(rows.played[:, 1:], ((0, 0), (0, 1)))
    advantages = gae(
        rows.rewards,
        values,
        jnp.zeros_like(values),
        ends,
        jnp.zeros_like(ends),
        rows.played,
        discount=knobs.discount,
        decay=knobs.decay,
    )
    return _Critique(
        advantages=whitened(advantages, rows.played, epsilon=1e-8),
        targets=advantages + values,
        values=values,
    )


def _values(context, params, hidden, rows):  # f32[B, K] at the last token before each answer
    before = jnp.maximum(rows.answer_start - 1, 0)[..., None]
    return context.critic.apply(params["critic"], jnp.take_along_axis(hidden, before, axis=1))


def _of_turns(context, logprobs, rows):  # f32[B, K] log-probability of each turn's answer
    K = rows.played.shape[1]
    turn = jnp.arange(K)[:, None]
    mine = rows.mask[:, None] & (rows.turn[:, None] == turn[None])  # bool[B, K, T]
    begun = jnp.cumsum(mine & (rows.tokens == context.formula_token)[:, None], axis=-1) > 0
    weight = jnp.where(begun, 1.0, context.knobs.ppo.thought_weight)
    return jnp.sum(jnp.where(mine, weight * logprobs[:, None], 0.0), axis=-1)


# Distillation


def _teacher_logprobs(context, params, others, rows):
    return context.logprobs(others.teacher, rows.tokens)


def _distil(context, params, others, rows):
    logprobs = context.logprobs(_policy(params), rows.tokens)
    return on_policy_distillation(logprobs, rows.added, rows.mask, aggregate=token_mean)


def _sdft(context, params, others, rows):
    log_policy = context.distributions(_policy(params), rows.tokens)
    mask = rows.mask[:, 1:]
    return sdft(log_policy, rows.added, mask, aggregate=token_mean)


def _shown_distributions(context, params, others, rows):
    """The moving average with the demonstration in view, token beside token of the answer."""
    shown, answer = rows.shown
    log_teacher = context.distributions(others.average, shown)
    offset = jnp.argmax(answer, axis=1) - jnp.argmax(rows.mask, axis=1)
    places = jnp.arange(rows.tokens.shape[1] - 1)[None] + offset[:, None]
    places = jnp.clip(places, 0, log_teacher.shape[1] - 1)
    return jnp.take_along_axis(log_teacher, places[..., None], axis=1)


OBJECTIVES = {
    "nll": Objective(_nll),
    "dft": Objective(_dft),
    "psft": Objective(_psft, _policy_logprobs),
    "anchored_nll": Objective(_anchored_nll),
    "simpo": Objective(_simpo, weight=_answers),
    "dpo": Objective(_dpo, _base_of_pairs, _answers),
    "grpo": Objective(_grpo, weight=_answers),
    "grpo_std": Objective(_grpo_std, weight=_answers),
    "dapo": Objective(_dapo),
    "anchored_grpo": Objective(_anchored_grpo, weight=_answers),
    "rloo": Objective(_rloo, weight=_answers),
    "reinforce": Objective(_reinforce, weight=_answers),
    "gspo": Objective(_gspo, weight=_answers),
    "ppo": Objective(_ppo, _criticise, _turns),
    "on_policy_distillation": Objective(_distil, _teacher_logprobs),
    "sdft": Objective(_sdft, _shown_distributions),
}
