"""Learning from reward without a critic: GRPO and its relatives, RLOO, REINFORCE.

They differ in three things: the advantage (a field of `Method`), what is clipped, a token or an
answer, and how tokens are aggregated.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.losses.gspo import gspo as gspo_loss
from rlrazor.losses.ppo_clip import ppo_clip
from rlrazor.losses.reinforce import reinforce as reinforce_loss
from rlrazor.methods.divergence import logprobs_and_divergence, read_constant
from rlrazor.methods.imitation import logprobs_of
from rlrazor.methods.method import Reads, given
from rlrazor.ops.advantages import centred
from rlrazor.ops.aggregate import Aggregate, scaled_sum, sequence_mean, token_mean
from rlrazor.ops.kl import kl
from rlrazor.ops.kl_estimators import k3
from rlrazor.policies.policy import Policy
from rlrazor.types import Metrics, Params, Rows


def grpo(
    policy: Policy,
    params: Params,
    reads: Reads,
    rows: Rows,
    *,
    clip_low: float,
    clip_high: float,
    **_: Any,
) -> tuple[jax.Array, Metrics]:
    """The loss of Dr. GRPO, which RL's Razor uses and calls GRPO: sums over a longest answer."""
    logprobs = logprobs_of(policy, params, rows)
    return _clipped(logprobs, rows, clip_low, clip_high, _over_longest(policy))


def grpo_std(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, clip_low: float, clip_high: float
) -> tuple[jax.Array, Metrics]:
    """GRPO's own aggregate: the mean over answers of the mean over an answer's tokens."""
    return _clipped(logprobs_of(policy, params, rows), rows, clip_low, clip_high, sequence_mean)


def dapo(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, clip_low: float, clip_high: float
) -> tuple[jax.Array, Metrics]:
    """DAPO's loss: clip-higher, and a mean over tokens.

    Its dynamic sampling and overlong shaping, which choose and reward episodes, are not here.
    """
    return _clipped(logprobs_of(policy, params, rows), rows, clip_low, clip_high, token_mean)


def anchored_grpo(
    policy: Policy,
    params: Params,
    reads: Reads,
    rows: Rows,
    *,
    clip_low: float,
    clip_high: float,
    coefficient: float,
) -> tuple[jax.Array, Metrics]:
    """grpo + coefficient KL(policy || base), exact, and aggregated as grpo is."""
    base = read_constant(policy, given(reads.base, "reads.base"), rows)
    logprobs, divergence = logprobs_and_divergence(policy, policy.read(params, rows), base, kl)
    aggregate = _over_longest(policy)
    loss, metrics = _clipped(logprobs, rows, clip_low, clip_high, aggregate)
    nats = jnp.sum(jnp.where(rows.mask, divergence, 0.0))
    return loss + coefficient * aggregate(divergence, rows.mask), {**metrics, "kl_nats": nats}


def rloo(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, clip_low: float, clip_high: float
) -> tuple[jax.Array, Metrics]:
    """Clipped like the others, with a whole answer as one action (arXiv 2402.14740)."""
    behaviour = given(rows.behaviour_logprobs, "rows.behaviour_logprobs")

    def of_answer(x: jax.Array) -> jax.Array:  # f32[B, T] -> f32[B, 1]
        return jnp.sum(jnp.where(rows.mask, x, 0.0), axis=1, keepdims=True)

    return ppo_clip(
        of_answer(logprobs_of(policy, params, rows)),
        of_answer(behaviour),
        given(rows.advantages, "rows.advantages")[:, None],
        jnp.any(rows.mask, axis=1, keepdims=True),
        clip_low=clip_low,
        clip_high=clip_high,
        aggregate=token_mean,
    )


def reinforce(
    policy: Policy, params: Params, reads: Reads, rows: Rows
) -> tuple[jax.Array, Metrics]:
    """`losses.reinforce`, of fresh samples: nothing is clipped."""
    advantages = given(rows.advantages, "rows.advantages")
    return reinforce_loss(logprobs_of(policy, params, rows), advantages, rows.mask)


def gspo(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, clip_low: float, clip_high: float
) -> tuple[jax.Array, Metrics]:
    """`losses.gspo`: the geometric mean of an answer's ratios is clipped."""
    return gspo_loss(
        logprobs_of(policy, params, rows),
        given(rows.behaviour_logprobs, "rows.behaviour_logprobs"),
        given(rows.advantages, "rows.advantages"),
        rows.mask,
        clip_low=clip_low,
        clip_high=clip_high,
    )


def with_retention(rows: Rows, *, retention: float, **_: Any) -> Rows:
    """Advantages of r + retention exp(-D) for right answers, r for others (RaPO, arXiv 2605.09640).

    D is the drift of an answer from the base: the mean over its tokens of k3, which estimates
    KL(pi || pi_0). Of answers with the same reward, that which drifts less gains more.
    """
    behaviour = given(rows.behaviour_logprobs, "rows.behaviour_logprobs")
    base = given(rows.base_logprobs, "rows.base_logprobs")
    nats = k3(*(jnp.where(rows.mask, logprobs, 0.0) for logprobs in (behaviour, base)))
    drift = jnp.sum(nats, axis=1) / jnp.maximum(jnp.sum(rows.mask, axis=1), 1)
    kept = jnp.where(given(rows.correct, "rows.correct"), jnp.exp(-drift), 0.0)
    more = centred(kept.reshape(-1, rows.samples)).reshape(-1)
    advantages = given(rows.advantages, "rows.advantages") + retention * more
    return dataclasses.replace(rows, advantages=advantages)


def as_they_are(rewards: jax.Array) -> jax.Array:
    """The advantage of 1-0 REINFORCE: the reward, without a baseline."""
    return rewards


def _over_longest(policy: Policy) -> Aggregate:
    return functools.partial(scaled_sum, length=policy.answer_tokens)


def _clipped(
    logprobs: jax.Array,  # f32[B, T]
    rows: Rows,
    clip_low: float,
    clip_high: float,
    aggregate: Aggregate,
) -> tuple[jax.Array, Metrics]:
    advantages = given(rows.advantages, "rows.advantages")
    return ppo_clip(
        logprobs,
        given(rows.behaviour_logprobs, "rows.behaviour_logprobs"),
        jnp.broadcast_to(advantages[:, None], logprobs.shape),
        rows.mask,
        clip_low=clip_low,
        clip_high=clip_high,
        aggregate=aggregate,
    )
