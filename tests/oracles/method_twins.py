"""Rows for every method, and what each method minimises on them: loops in float64.

Rows are prepared under one policy and learnt from under another, so that ratios are not 1, some are
clipped, and the critic has moved.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.methods import methods
from rlrazor.methods.method import Reads
from rlrazor.models.value_head import ValueHead
from rlrazor.types import Rows, Turns
from tests.oracles import loss_twins, toy_policy
from tests.oracles.tiny_transformers import quick
from tests.oracles.toy_policy import ANSWER_TOKENS, D, V

METHODS = {**methods.all_methods(), "ppo": methods.ppo.tuned(answer_token=5, critic=(3,))}
TEMPERATURE = 0.8
POLICY = toy_policy.policy(TEMPERATURE)
OLD, BASE, TEACHER, AVERAGE = (toy_policy.make(seed) for seed in range(4))
NEW = jax.tree.map(lambda leaf, other: leaf + 0.07 * other, OLD, toy_policy.make(9))
B, T, K = 7, 10, 2

# Two turns a row, a reply between them; row 5 has one, up to its last place, and row 6 is padding.
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (B, T)).astype(np.int32)
OF_TOKEN = np.full((B, T), -1, np.int32)
for _row, (_first, _second, _end) in enumerate(
    [(2, 5, 7), (2, 6, 9), (3, 5, 6), (3, 7, 9), (2, 4, 8), (2, 10, 10)]
):
    OF_TOKEN[_row, _first : _second - 1] = 0
    OF_TOKEN[_row, _second:_end] = 1
OF_TOKEN[5, 9] = 0
MASK = OF_TOKEN >= 0
PLAYED = np.stack([(turn == OF_TOKEN).any(1) for turn in range(K)], axis=1)
START = np.stack([np.argmax(turn == OF_TOKEN, axis=1) for turn in range(K)], axis=1)
PROMPT = np.array([2, 2, 3, 3, 2, 2, 0], np.int32)
REWARDS = np.where(PLAYED, RNG.integers(0, 4, (B, K)), 0).astype(np.float32)
ADVANTAGES = np.array([1.0, -0.5, 2.0, -1.0, -2.0, 0.3, 9.0], np.float32)
CORRECT = np.array([True, False, True, True, False, True, False])
SHIFT = 3  # tokens of the demonstration before each row
LONGER = np.concatenate([RNG.integers(0, V, (B, SHIFT)).astype(np.int32), TOKENS], axis=1)
LONGER_MASK = np.concatenate([np.zeros((B, SHIFT), bool), MASK], axis=1)
WRONG = RNG.integers(0, V, (B, T)).astype(np.int32)
WRONG_MASK = np.concatenate([np.roll(MASK[:-1], 1, axis=0), MASK[-1:]])


def twin(params, tokens=TOKENS, mask=MASK):
    """log pi of every masked token, f64[B, T, V], and of what was said, f64[B, T]."""
    log_policy = toy_policy.twin_distributions(params, tokens, mask, TEMPERATURE)
    return log_policy, np.where(mask, toy_policy.chosen(log_policy, tokens), 0.0)


@functools.cache
def behaviour():
    """Of a policy near the one that learns: some ratios are clipped, most are not."""
    return (twin(OLD)[1] + np.random.default_rng(1).normal(0, 0.15, (B, T)) * MASK).astype("f4")


@functools.cache
def rows() -> Rows:
    turns = Turns(*map(jnp.asarray, (PLAYED, START.astype(np.int32), REWARDS, OF_TOKEN)))
    behind = toy_policy.rows_of(LONGER, LONGER_MASK, prompt_count=PROMPT + SHIFT)
    made = toy_policy.rows_of(
        TOKENS, MASK, prompt_count=PROMPT, behaviour_logprobs=behaviour(), advantages=ADVANTAGES
    )
    return dataclasses.replace(
        made,
        turns=turns,
        correct=jnp.asarray(CORRECT),
        rejected=toy_policy.rows_of(WRONG, WRONG_MASK),
        anchor=toy_policy.rows_of(WRONG, WRONG_MASK),
        demonstrated=dataclasses.replace(behind, prompt_size=2 + SHIFT),
        prompt_size=2,
    )


@functools.cache
def critics():
    made = [ValueHead((3,)).init(jax.random.key(n), jnp.zeros((1, 1, D))) for n in range(2)]
    return made[0], jax.tree.map(lambda a, b: a + 0.3 * b, *made)


def reads(critic=None):
    return Reads(BASE, TEACHER, AVERAGE, critic)


@functools.cache
def program(name, policy=POLICY, **knobs):
    """(trained, rows) -> loss, metrics, gradient; rows are prepared under OLD."""
    tuned = METHODS[name].tuned(**knobs)

    @quick
    def run(trained, rows):
        old = reads(critics()[0] if tuned.critic else None)
        ready = tuned.prepared(policy, OLD, old, rows)

        def loss(trained):
            return tuned.loss(policy, trained["policy"], reads(trained.get("critic")), ready)

        return jax.value_and_grad(loss, has_aux=True)(trained)

    return run


def trained_of(name, policy=NEW):
    return {"policy": policy, **({"critic": critics()[1]} if METHODS[name].critic else {})}


def found(name, batch=None, **knobs):
    trained = trained_of(name)
    (loss, metrics), gradient = program(name, **knobs)(trained, batch or rows())
    return jax.device_get((loss, metrics, gradient))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


# Twins: the loss as a function of what is trained, in float64; what is constant is of OLD or NEW.


def surrogate(logprobs, old, advantages, mask, knobs, aggregate):
    return loss_twins.ppo_clip(
        logprobs, old, np.broadcast_to(advantages[:, None], mask.shape), mask,
        low=knobs["clip_low"], high=knobs["clip_high"], aggregate=aggregate, length=ANSWER_TOKENS,
    )  # fmt: skip


def mean_kl(log_p, log_q, aggregate="token_mean"):
    at = zip(*np.nonzero(MASK), strict=True)
    values = {(b, t): loss_twins.kl(log_p[b, t], log_q[b, t]) for b, t in at}
    return loss_twins.weighted_mean(values, MASK, aggregate, ANSWER_TOKENS)


def value_of(critic, state):
    layers = critic["params"]["mlp"]
    hidden = np.maximum(state @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"], 0)
    return (hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]).item()


def values_of(policy, critic):
    values = np.zeros((B, K))
    for b, k in zip(*np.nonzero(PLAYED), strict=True):
        values[b, k] = value_of(critic, toy_policy.twin_state(policy, TOKENS[b, : START[b, k]]))
    return values


def turn_sums(logprobs, knobs):
    sums = np.zeros((B, K))
    for b, k in zip(*np.nonzero(PLAYED), strict=True):
        weight = knobs["thought_weight"]
        for t in np.flatnonzero(OF_TOKEN[b] == k):
            if TOKENS[b, t] == knobs["answer_token"]:
                weight = 1.0
            sums[b, k] += weight * logprobs[b, t]
    return sums


@functools.cache
def criticised():
    """White advantages, targets and values of the old policy and critic: GAE by its definition."""
    knobs, values = METHODS["ppo"].knobs, values_of(OLD, critics()[0])
    advantages = np.zeros((B, K))
    for b in range(B):
        following = next_value = 0.0
        for k in reversed(range(K)):
            if PLAYED[b, k]:
                delta = REWARDS[b, k] + knobs["discount"] * next_value - values[b, k]
                following = delta + knobs["discount"] * knobs["decay"] * following
                advantages[b, k], next_value = following, values[b, k]
    kept = advantages[PLAYED]
    white = np.where(PLAYED, (advantages - kept.mean()) / (kept.std() + 1e-8), 0)
    return white, advantages + values, values


def ppo_twin(trained):
    knobs = METHODS["ppo"].knobs
    white, targets, values = criticised()
    policy = loss_twins.ppo_clip_fallback(
        turn_sums(twin(trained["policy"])[1], knobs), turn_sums(behaviour(), knobs), white, PLAYED,
        low=knobs["clip"], high=knobs["clip"], above=knobs["fallback_above"],
    )  # fmt: skip
    now = values_of(trained["policy"], trained["critic"])
    critic = loss_twins.value_loss(now, values, targets, PLAYED, clip=knobs["clip"])
    return policy + knobs["value_coefficient"] * critic


def by_hand(name, trained):
    knobs, params = METHODS[name].knobs, trained["policy"]
    if name == "ppo":
        return ppo_twin(trained)
    log_policy, logprobs = twin(params)
    whole = logprobs.sum(1, keepdims=True), np.float64(behaviour()).sum(1, keepdims=True)
    wrong = functools.partial(twin, tokens=WRONG, mask=WRONG_MASK)
    match name:
        case "sft" | "self_sft" | "iterative_sft" | "distilled":
            return loss_twins.nll(logprobs, MASK)
        case "dft":
            return loss_twins.dft(logprobs, twin(NEW)[1], MASK)
        case "eaft":
            frozen = twin(NEW)[0]
            gates = np.zeros(MASK.shape)
            for b, t in zip(*np.nonzero(MASK), strict=True):
                gates[b, t] = loss_twins.entropy_gate(frozen[b, t], knobs["most_likely"])
            return loss_twins.weighted_nll(logprobs, gates, MASK)
        case "talr":
            weights = loss_twins.tempered_weights(twin(OLD)[1], MASK, knobs["least"])
            return loss_twins.weighted_nll(logprobs, weights, MASK)
        case "psft":
            return loss_twins.psft(logprobs, twin(OLD)[1], MASK, low=0.2, high=knobs["clip_high"])
        case "sft_kl_base_policy":
            anchor = mean_kl(twin(BASE)[0], log_policy)
            return loss_twins.nll(logprobs, MASK) + knobs["coefficient"] * anchor
        case "sft_kl_prior":
            said, base = wrong(params)[0], wrong(BASE)[0]
            at = zip(*np.nonzero(WRONG_MASK), strict=True)
            nats = sum(loss_twins.kl(base[b, t], said[b, t]) for b, t in at)
            return loss_twins.nll(logprobs, MASK) + knobs["coefficient"] * nats / MASK.sum()
        case "simpo":
            return loss_twins.simpo(logprobs, MASK, wrong(params)[1], WRONG_MASK, **knobs)
        case "dpo":
            right = logprobs, twin(BASE)[1], MASK
            return loss_twins.dpo(*right, wrong(params)[1], wrong(BASE)[1], WRONG_MASK, **knobs)
        case "rapo":
            advantages = loss_twins.retained(
                ADVANTAGES, behaviour(), twin(BASE)[1], CORRECT, MASK, samples=1,
                retention=knobs["retention"],
            )  # fmt: skip
            return surrogate(logprobs, behaviour(), advantages, MASK, knobs, "scaled_sum")
        case "grpo":
            return surrogate(logprobs, behaviour(), ADVANTAGES, MASK, knobs, "scaled_sum")
        case "grpo_std":
            return surrogate(logprobs, behaviour(), ADVANTAGES, MASK, knobs, "sequence_mean")
        case "dapo":
            return surrogate(logprobs, behaviour(), ADVANTAGES, MASK, knobs, "token_mean")
        case "rloo":
            answered = MASK.any(axis=1, keepdims=True)
            return surrogate(*whole, ADVANTAGES, answered, knobs, "token_mean")
        case "reinforce":
            return loss_twins.reinforce(logprobs, ADVANTAGES, MASK)
        case "gspo":
            low, high = knobs["clip_low"], knobs["clip_high"]
            old = behaviour()
            return loss_twins.gspo(logprobs, old, ADVANTAGES, MASK, low=low, high=high)
        case "grpo_kl":
            loss = surrogate(logprobs, behaviour(), ADVANTAGES, MASK, knobs, "scaled_sum")
            anchor = mean_kl(log_policy, twin(BASE)[0], "scaled_sum")
            return loss + knobs["coefficient"] * anchor
        case "on_policy_distillation":
            frozen, teacher = twin(NEW)[1], twin(TEACHER)[1]
            return loss_twins.on_policy_distillation(
                logprobs, frozen, teacher, MASK, aggregate="token_mean"
            )
        case "sdft":
            return mean_kl(log_policy, twin(AVERAGE, LONGER, LONGER_MASK)[0][:, SHIFT:])
    raise ValueError(name)
