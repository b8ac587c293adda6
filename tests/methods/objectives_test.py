"""What each method minimises: value and gradient beside loops in float64, and laws for all of them.

Rows are prepared under one policy and learnt from under another, so that ratios are not 1, some are
clipped, and the critic has moved.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.kl_penalty import kl_penalty
from rlrazor.losses.sdft import sdft
from rlrazor.methods import methods
from rlrazor.methods.method import Reads
from rlrazor.models.value_head import ValueHead
from rlrazor.ops.aggregate import token_mean
from rlrazor.types import Rows, Turns
from tests.oracles import loss_twins, toy_policy
from tests.oracles.finite_differences import numerical_gradient
from tests.oracles.tiny_transformers import quick
from tests.oracles.toy_policy import ANSWER_TOKENS, OTHER, D, V

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
        rejected=toy_policy.rows_of(WRONG, WRONG_MASK),
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
def program(name, policy=POLICY):
    """(trained, rows, knobs) -> loss, metrics, gradient; rows are prepared under OLD."""
    method = METHODS[name]

    @quick
    def run(trained, rows, knobs):
        tuned = method.tuned(**knobs)
        old = reads(critics()[0] if method.critic else None)
        ready = tuned.prepared(policy, OLD, old, rows)

        def loss(trained):
            return tuned.loss(policy, trained["policy"], reads(trained.get("critic")), ready)

        return jax.value_and_grad(loss, has_aux=True)(trained)

    return run


def trained_of(name, policy=NEW):
    return {"policy": policy, **({"critic": critics()[1]} if METHODS[name].critic else {})}


def found(name, batch=None, **knobs):
    trained = trained_of(name)
    (loss, metrics), gradient = program(name)(trained, batch or rows(), knobs)
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
        case "psft":
            return loss_twins.psft(logprobs, twin(OLD)[1], MASK, low=0.2, high=knobs["clip_high"])
        case "sft_kl_base_policy":
            anchor = mean_kl(twin(BASE)[0], log_policy)
            return loss_twins.nll(logprobs, MASK) + knobs["coefficient"] * anchor
        case "simpo":
            return loss_twins.simpo(logprobs, MASK, wrong(params)[1], WRONG_MASK, **knobs)
        case "dpo":
            right = logprobs, twin(BASE)[1], MASK
            return loss_twins.dpo(*right, wrong(params)[1], wrong(BASE)[1], WRONG_MASK, **knobs)
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


@pytest.mark.parametrize("name", METHODS)
def test_value_and_gradient_are_those_of_loops_in_float64(name):
    trained = trained_of(name)
    loss, metrics, gradient = found(name)
    np.testing.assert_allclose(loss, by_hand(name, trained), rtol=2e-5, atol=2e-6)
    leaves, shape = jax.tree.flatten(trained)
    sizes = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def at(vector):
        parts = zip(np.split(vector, sizes), leaves, strict=True)
        return by_hand(name, jax.tree.unflatten(shape, [p.reshape(x.shape) for p, x in parts]))

    numerical = numerical_gradient(at, flat(trained))
    assert np.abs(numerical).max() > 1e-3
    np.testing.assert_allclose(flat(gradient), numerical, rtol=1e-3, atol=2e-5)
    assert all(np.isfinite(value) for value in metrics.values())


def test_clips_hold_some_and_not_all():
    """Else the test above says nothing about them."""
    for name in ("grpo", "grpo_std", "dapo", "rloo", "gspo"):
        _, metrics, _ = found(name)
        held = metrics["clipped_low"] + metrics["clipped_high"]
        assert 0 < held < (metrics["tokens"] if name != "gspo" else metrics["sequences"]), name


# Exact terms are those of the losses that take whole distributions.


def test_anchors_are_the_kl_penalty():
    log_policy, log_base = (jnp.asarray(twin(p)[0], jnp.float32) for p in (NEW, BASE))
    penalty, _ = kl_penalty(log_base, log_policy, jnp.asarray(MASK))
    anchored, plain = found("sft_kl_base_policy")[0], found("sft")[0]
    np.testing.assert_allclose(anchored - plain, 0.5 * penalty, rtol=1e-4)
    penalty, _ = kl_penalty(log_policy, log_base, jnp.asarray(MASK))
    anchored, plain = found("grpo_kl")[0], found("grpo")[0]
    # A mean over tokens becomes a sum over them: one scale for both terms.
    scale = MASK.sum() / (MASK.any(1).sum() * ANSWER_TOKENS)
    np.testing.assert_allclose(anchored - plain, 0.1 * scale * penalty, rtol=1e-4)


def test_sdft_is_the_loss_of_whole_distributions():
    log_policy = jnp.asarray(twin(NEW)[0], jnp.float32)
    log_teacher = jnp.asarray(twin(AVERAGE, LONGER, LONGER_MASK)[0][:, SHIFT:], jnp.float32)
    expected, metrics = sdft(log_policy, log_teacher, jnp.asarray(MASK), aggregate=token_mean)
    loss, mine, _ = found("sdft")
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(mine["kl_nats"], metrics["kl_nats"], rtol=1e-4)


# Laws.


def pick(batch, places):
    return jax.tree.map(lambda leaf: leaf[np.asarray(places)], batch)


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_is_the_mean_of_its_parts_by_the_methods_weight(name):
    """What gradient accumulation rests on. Rows are prepared as they are learnt from, whole."""
    method = METHODS[name]

    @quick
    def of_parts(trained):
        old = reads(critics()[0] if method.critic else None)
        ready = method.prepared(POLICY, OLD, old, rows())
        of_policy = functools.partial(
            method.loss, POLICY, trained["policy"], reads(trained.get("critic"))
        )
        parts = [pick(ready, part) for part in (range(3), range(3, 4), range(4, B))]
        weights = jnp.stack([method.weight(part) for part in parts])
        found = [of_policy(part) for part in parts]
        losses = jnp.stack([loss for loss, _ in found])
        metrics = jax.tree.map(lambda *each: sum(each), *(metrics for _, metrics in found))
        return jnp.sum(losses * weights) / jnp.sum(weights), metrics

    loss, metrics, _ = found(name)
    in_parts, summed = of_parts(trained_of(name))
    np.testing.assert_allclose(in_parts, loss, rtol=1e-4, atol=1e-6)
    for metric, value in metrics.items():
        np.testing.assert_allclose(summed[metric], value, rtol=1e-4, err_msg=metric)


@pytest.mark.parametrize("name", METHODS)
def test_what_the_mask_drops_changes_nothing(name):
    """NaN outside the mask and for a row of padding, other tokens behind the last."""
    batch, turns = rows(), rows().turns
    assert not batch.mask[-1].any()
    batch = dataclasses.replace(
        with_other_tails(batch),
        behaviour_logprobs=jnp.where(batch.mask, batch.behaviour_logprobs, jnp.nan),
        advantages=jnp.where(batch.mask.any(axis=1), batch.advantages, jnp.nan),
        turns=dataclasses.replace(turns, rewards=jnp.where(turns.played, turns.rewards, jnp.nan)),
        rejected=with_other_tails(batch.rejected),
        demonstrated=with_other_tails(batch.demonstrated),
    )
    plain, changed = found(name), found(name, batch)
    chex.assert_trees_all_close(plain[0], changed[0], rtol=1e-5)
    chex.assert_trees_all_close(plain[2], changed[2], rtol=1e-4, atol=1e-6)


def with_other_tails(rows):
    tail = jnp.arange(rows.tokens.shape[1])[None] >= rows.count[:, None]
    return dataclasses.replace(rows, tokens=jnp.where(tail, (rows.tokens + 5) % V, rows.tokens))


@pytest.mark.parametrize(
    ("name", "sampling"),
    [("grpo", (0.7, 0, 1.0)), ("gspo", (1.3, 3, 1.0)), ("rloo", (1.0, 0, 0.6)),
     ("ppo", (0.8, 4, 0.7)), ("dapo", (0.0, 0, 1.0))],
)  # fmt: skip
def test_ratios_are_1_before_the_first_update(name, sampling):
    policy = toy_policy.policy(*sampling)
    logprobs = quick(lambda: policy.logprobs(policy.read(NEW, rows())))()
    played = dataclasses.replace(rows(), behaviour_logprobs=logprobs)
    (_, metrics), _ = program(name, policy)(trained_of(name), played, {})
    count = metrics["sequences" if name == "gspo" else "tokens"]
    np.testing.assert_allclose(metrics["ratio"], count, rtol=1e-5)


@pytest.mark.parametrize("name", ["sft_kl_base_policy", "grpo_kl", "sdft"])
@pytest.mark.parametrize("sampling", [(0.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.6)])
def test_distributions_that_lack_each_others_tokens_are_not_compared(name, sampling):
    with pytest.raises(ValueError, match="is infinite; sample with a positive temperature"):
        METHODS[name].loss(toy_policy.policy(*sampling), NEW, reads(), rows())


@pytest.mark.parametrize(("name", "field"), [
    ("dpo", "rows.base_logprobs"), ("psft", "rows.old_logprobs"), ("ppo", "rows.critique"),
    ("on_policy_distillation", "rows.teacher_logprobs"),
])  # fmt: skip
def test_rows_that_were_not_prepared_are_refused(name, field):
    with pytest.raises(ValueError, match=f"{field} is None, and the method's objective needs it"):
        METHODS[name].loss(POLICY, NEW, reads(critics()[0]), rows())


@pytest.mark.parametrize(
    "name", ["sft_kl_base_policy", "dpo", "grpo_kl", "on_policy_distillation", "sdft"]
)
def test_nothing_flows_into_weights_that_are_only_read(name):
    method = METHODS[name]

    def loss(base, teacher, average):
        others = Reads(base, teacher, average)
        ready = method.prepared(POLICY, NEW, others, rows())
        return method.loss(POLICY, NEW, others, ready)[0]

    gradients = quick(jax.grad(loss, argnums=(0, 1, 2)))(BASE, TEACHER, AVERAGE)
    assert not flat(gradients).any()


# Exact by enumeration: one-token answers, each weighted by its probability.

EVERY = np.arange(V, dtype=np.int32)
ONE = np.stack([np.full(V, 3), np.full(V, OTHER), EVERY], axis=1).astype(np.int32)
ONE_MASK = np.stack([EVERY < 0, EVERY < 0, EVERY >= 0], axis=1)


def expected_gradient(name, objective_of, rewards=None):
    """sum_y pi(y) grad loss(y) over all answers y to a prompt, beside grad of `objective_of`."""
    method = METHODS[name]
    each = toy_policy.rows_of(ONE, ONE_MASK, prompt_count=np.full(V, 2, np.int32))
    each = dataclasses.replace(each, advantages=rewards, prompt_size=2)

    def log_policy(params):
        states = toy_policy.hidden(params, jnp.asarray(ONE[:1, :2]))[:, -1]
        return jax.nn.log_softmax(toy_policy.logits(params, states)[0] / TEMPERATURE)

    @quick
    def both(params):
        def of_answer(params, y):
            row = jax.tree.map(lambda leaf: leaf[y][None], each)
            ready = method.prepared(POLICY, NEW, reads(), row)
            return method.loss(POLICY, params, reads(), ready)[0]

        answers = jax.vmap(jax.grad(of_answer), in_axes=(None, 0))(params, jnp.arange(V))
        weights = jnp.exp(log_policy(params))
        mine = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), answers)
        return mine, jax.grad(lambda p: objective_of(log_policy, p))(params)

    mine, exact = both(NEW)
    assert np.abs(flat(exact)).max() > 1e-2
    np.testing.assert_allclose(flat(mine), flat(exact), atol=1e-5)


def test_reinforce_climbs_the_expected_reward():
    rewards = jnp.asarray(RNG.integers(0, 2, V), jnp.float32)
    expected_gradient("reinforce", lambda log, p: -jnp.exp(log(p)) @ rewards, rewards)


def test_on_policy_distillation_descends_the_kl_from_policy_to_teacher():
    def divergence(log, p):
        return jnp.exp(log(p)) @ (log(p) - log(TEACHER))

    expected_gradient("on_policy_distillation", divergence)


# Knobs.

OTHER_KNOBS = {
    "clip_low": 0.02, "clip_high": 9.0, "beta": 2.0, "margin": 0.1, "coefficient": 0.7,
    "clip": 10.0, "fallback_above": 0.9, "value_coefficient": 0.1, "thought_weight": 0.9,
    "discount": 0.1, "decay": 0.1,
}  # fmt: skip
EVERY_KNOB = [
    pytest.param(name, knob, marks=() if name == "grpo" else pytest.mark.slow)
    for name, method in METHODS.items() for knob in method.knobs if knob != "answer_token"
]  # fmt: skip


@pytest.mark.parametrize(("name", "knob"), EVERY_KNOB)
def test_every_knob_is_alive(name, knob):
    changed = {"psft": -0.5, "gspo": 3.0}.get(name, OTHER_KNOBS[knob])
    plain, other = (flat(found(name, **knobs)[2]) for knobs in ({}, {knob: changed}))
    assert np.isfinite(other).all()
    assert np.abs(other - plain).max() > 1e-6


def test_the_token_that_begins_what_is_judged_is_alive():
    plain = found("ppo")[0]
    for token in (None, 6):  # 6 is never said
        tuned = METHODS["ppo"].tuned(answer_token=token)
        ready = tuned.prepared(POLICY, OLD, reads(critics()[0]), rows())
        loss, _ = tuned.loss(POLICY, NEW, reads(critics()[1]), ready)
        assert abs(loss - plain) > 1e-5
    unweighted = METHODS["ppo"].tuned(answer_token=6, thought_weight=1.0)
    other = unweighted.loss(POLICY, NEW, reads(critics()[1]), ready)[0]
    plain = METHODS["ppo"].tuned(answer_token=None).loss(POLICY, NEW, reads(critics()[1]), ready)[0]
    np.testing.assert_allclose(other, plain, rtol=1e-6)
