"""What each method minimises: value and gradient beside float64 loops, and laws for all of them."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.kl_penalty import kl_penalty
from rlrazor.losses.sdft import sdft
from rlrazor.methods.method import Reads
from rlrazor.ops.aggregate import token_mean
from tests.oracles import toy_policy
from tests.oracles.finite_differences import numerical_gradient
from tests.oracles.loss_twins import retained
from tests.oracles.method_twins import (
    ADVANTAGES,
    AVERAGE,
    BASE,
    CORRECT,
    LONGER,
    LONGER_MASK,
    MASK,
    METHODS,
    NEW,
    OLD,
    POLICY,
    RNG,
    SHIFT,
    TEACHER,
    TEMPERATURE,
    B,
    behaviour,
    by_hand,
    critics,
    flat,
    found,
    program,
    reads,
    rows,
    trained_of,
    twin,
)  # fmt: skip
from tests.oracles.tiny_transformers import quick
from tests.oracles.toy_policy import ANSWER_TOKENS, OTHER, V


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


def test_a_right_answer_that_drifts_less_gains_more():
    """Of one group: the rewards' own advantages, and what retention adds to them."""
    group = dataclasses.replace(rows(), samples=B)
    ready = quick(METHODS["rapo"].prepared, static_argnums=0)(POLICY, OLD, reads(), group)
    expected = retained(
        ADVANTAGES, behaviour(), twin(BASE)[1], CORRECT, MASK, samples=B, retention=0.5
    )
    np.testing.assert_allclose(ready.advantages, expected, rtol=1e-5, atol=1e-6)
    more = np.asarray(ready.advantages) - ADVANTAGES
    assert more[CORRECT & MASK.any(1)].max() > 0
    assert np.abs(more.sum()) < 1e-5  # a group's advantages keep their mean


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
    (_, metrics), _ = program(name, policy)(trained_of(name), played)
    count = metrics["sequences" if name == "gspo" else "tokens"]
    np.testing.assert_allclose(metrics["ratio"], count, rtol=1e-5)


@pytest.mark.parametrize("name", ["sft_kl_base_policy", "grpo_kl", "sdft"])
@pytest.mark.parametrize("sampling", [(0.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.6)])
def test_distributions_that_lack_each_others_tokens_are_not_compared(name, sampling):
    with pytest.raises(ValueError, match="is infinite; sample with a positive temperature"):
        METHODS[name].loss(toy_policy.policy(*sampling), NEW, reads(), rows())


@pytest.mark.parametrize(("name", "field"), [
    ("dpo", "rows.base_logprobs"), ("talr", "rows.token_weights"), ("psft", "rows.old_logprobs"),
    ("ppo", "rows.critique"), ("on_policy_distillation", "rows.teacher_logprobs"),
])  # fmt: skip
def test_rows_that_were_not_prepared_are_refused(name, field):
    with pytest.raises(ValueError, match=f"{field} is None, and the method's objective needs it"):
        METHODS[name].loss(POLICY, NEW, reads(critics()[0]), rows())


READERS = ("sft_kl_base_policy", "sft_kl_prior", "dpo", "grpo_kl", "rapo")


@pytest.mark.parametrize("name", [*READERS, "on_policy_distillation", "sdft"])
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
    "discount": 0.1, "decay": 0.1, "most_likely": 2, "least": 0.9, "retention": 5.0,
}  # fmt: skip
EVERY_KNOB = [
    pytest.param(name, knob, marks=() if name == "grpo" else pytest.mark.slow)
    for name, method in METHODS.items() for knob in method.knobs if knob != "answer_token"
]  # fmt: skip


@pytest.mark.parametrize(("name", "knob"), EVERY_KNOB)
def test_every_knob_is_alive(name, knob):
    changed = {"psft": -0.5, "gspo": 3.0, "rloo": 0.9}.get(name, OTHER_KNOBS[knob])
    batch = dataclasses.replace(rows(), samples=B) if knob == "retention" else rows()
    plain, other = (flat(found(name, batch, **knobs)[2]) for knobs in ({}, {knob: changed}))
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
