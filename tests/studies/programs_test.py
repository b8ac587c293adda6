"""An iteration as one program: methods learn, minibatches and devices change nothing."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlrazor.methods.method import tokens
from rlrazor.runtime.mesh import make_mesh
from rlrazor.studies.programs import (
    Optimization,
    Sizes,
    by_keys,
    by_rows,
    microbatches,
    minibatches,
    pad_rows,
    per_counted,
)
from rlrazor.types import Rows, Turns
from tests.oracles import toy_policy, toy_study
from tests.oracles.tiny_transformers import quick
from tests.oracles.toy_policy import ANSWER_TOKENS, V
from tests.oracles.toy_study import METHODS, drawn, given, run, setup, stacked, task

pytestmark = pytest.mark.usefixtures("quick_compiles")

BASE = toy_policy.make(0)
UNCLIPPED = (("clip_by_global_norm", 1e9),)


def slowly(names, *quickly):
    return [pytest.param(n, marks=() if n in quickly else pytest.mark.slow) for n in names]


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def policy_of(state):
    return state.train.params["policy"]


# Learning.


@pytest.mark.parametrize("name", slowly(METHODS, "sft", "dpo", "grpo"))
def test_every_method_learns_for_two_iterations(name):
    several = {"turns": 2} if name in ("ppo", "dapo", "distilled", "iterative_sft") else {}
    state, found = run(name, 2, **several)
    how = METHODS[name]
    chex.assert_tree_all_finite(state.train.params)
    assert distance(BASE, policy_of(state)) > 1e-3
    assert state.train.step == 2 * 2 * how.epochs
    assert ("critic" in state.train.params) == (name == "ppo")
    assert (state.average is None) == (name != "sdft")
    for metrics in found:
        assert metrics["updates_skipped"] == 0
        assert metrics["gradient_norm"] > 0
        assert 0 < metrics["learnt_from"] <= 1
        assert all(np.isfinite(value) for value in metrics.values()), metrics


def reference_loss(name, params, rows, advantages):
    """All rows at once, all logits in memory: the loss of the first update."""
    states = toy_policy.hidden(params, rows.tokens)
    log_policy = jax.nn.log_softmax(toy_policy.logits(params, states))[:, :-1]
    chosen = jnp.take_along_axis(log_policy, rows.tokens[:, 1:, None], axis=2)[..., 0]
    mask = rows.mask[:, 1:]
    if name == "sft":
        return -jnp.sum(chosen * mask) / jnp.sum(mask)
    # On-policy, the ratio is 1: its gradient is that of the log-probability.
    ratio = jnp.exp(chosen - jax.lax.stop_gradient(chosen))
    return -jnp.mean(jnp.sum(ratio * advantages[:, None] * mask, axis=1) / ANSWER_TOKENS)


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_the_first_update_is_adams_of_the_slow_gradient(name):
    """By loops in Python over samples, and Adam by its definition."""
    state, (metrics,) = run(name, minibatches=1, optimizer=UNCLIPPED)
    key = jax.random.fold_in(given().stream(1), 0)
    drawing, _ = jax.random.split(key)
    rows, _ = jax.device_get(_draw_by(name)(given(), toy_study.on_device().tasks, drawing))
    advantages = np.zeros(12, np.float32)
    if name == "grpo":
        for first in range(0, 12, 3):
            group = [
                toy_study.worth(toy_study.prompt_digits(t), t[m])
                for t, m in zip(rows.tokens[first : first + 3], rows.mask[first : first + 3],
                                strict=True)
            ]  # fmt: skip
            advantages[first : first + 3] = np.array(group) - np.mean(group)
        assert np.abs(advantages).max() > 0
    value, gradient = jax.value_and_grad(
        lambda params: reference_loss(name, params, rows, advantages)
    )(jax.tree.map(jnp.asarray, BASE))
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4, atol=1e-6)
    for before, after, g in zip(
        *map(jax.tree.leaves, (BASE, policy_of(state), gradient)), strict=True
    ):
        clear = np.abs(g) > 1e-4  # elsewhere, Adam's sign is that of a rounding error
        expected = before - 0.05 * np.asarray(g) / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(after[clear], expected[clear], atol=1e-4)


@functools.cache
def _draw_by(name):
    made = setup(name, minibatches=1, optimizer=UNCLIPPED)

    def draw(known, tasks, key):
        state = toy_study.initial(made, known, known.base)
        return toy_study.on_device().draw(made, state, known, tasks, key)

    return quick(draw)


@pytest.mark.parametrize("name", slowly(METHODS, "sft", "grpo"))
def test_an_update_is_the_same_in_microbatches(name):
    """What each loss is a mean over is what its microbatches weigh."""
    (_, (few,)), (_, (whole,)) = (run(name), run(name, rows_at_once=100))
    for key in ("loss", "gradient_norm"):
        np.testing.assert_allclose(few[key], whole[key], rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", slowly(METHODS, "sft", "grpo"))
def test_devices_change_nothing(name):
    """12 rows of two minibatches on four devices, which 6 rows fill unevenly."""
    (one, (alone,)), (four, (shared,)) = (run(name), run(name, devices=4))
    assert alone.keys() == shared.keys()
    for key, value in alone.items():
        np.testing.assert_allclose(value, shared[key], rtol=1e-3, atol=1e-5, err_msg=key)
    # Adam's first steps are signs: a gradient that is nearly none may go either way.
    moved = [
        np.abs(a - b) < 1e-3
        for a, b in zip(*map(jax.tree.leaves, (policy_of(one), policy_of(four))), strict=True)
    ]
    assert np.mean(np.concatenate([m.ravel() for m in moved])) > 0.9


def test_an_iteration_again_is_the_same_and_the_next_one_is_not():
    """At learning rate 0 both iterations have one policy: what differs was drawn."""
    still = given(learning_rate=0.0)
    state, (first, second) = run("grpo", 2, known=still)
    chex.assert_trees_all_equal(policy_of(state), BASE)
    again, metrics = run("grpo", 2, known=still)
    chex.assert_trees_all_equal(jax.tree.leaves(state.train), jax.tree.leaves(again.train))
    chex.assert_trees_all_equal([first, second], metrics)
    assert first["entropy_nats"] != second["entropy_nats"]
    _, (other,) = run("grpo", known=given(seed=1, learning_rate=0.0))
    assert other["entropy_nats"] != first["entropy_nats"]


def test_equal_rewards_teach_grpo_nothing():
    unpaid = toy_study.on_device(pay=0.0).tasks
    state, found = run("grpo", 2, tasks=unpaid)
    chex.assert_trees_all_equal(policy_of(state), BASE)
    assert [metrics["groups_alike"] for metrics in found] == [1, 1]
    assert [metrics["gradient_norm"] for metrics in found] == [0, 0]
    state, (metrics,) = run("grpo", state=state)
    assert metrics["groups_alike"] < 1
    assert distance(policy_of(state), BASE) > 1e-3


def test_a_gradient_that_is_no_number_is_skipped_and_counted():
    broken = stacked(task(pay=np.nan))
    state, (metrics,) = run("grpo", tasks=broken)
    chex.assert_trees_all_equal(policy_of(state), BASE)
    assert metrics["updates_skipped"] == 2  # every minibatch
    assert state.train.step == 2
    state, (metrics,) = run("grpo", state=state)
    chex.assert_tree_all_finite(state.train.params)
    assert metrics["updates_skipped"] == 0
    assert distance(policy_of(state), BASE) > 1e-3


def test_one_program_serves_every_learning_rate():
    ends = [
        distance(policy_of(run("grpo", known=given(learning_rate=rate))[0]), BASE)
        for rate in (1e-4, 1e-2)
    ]
    assert ends[1] > 10 * ends[0] > 0


@pytest.mark.slow
def test_the_teacher_of_self_distillation_is_a_moving_average():
    decay = METHODS["sdft"].average_decay
    state, _ = run("sdft")
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, BASE, policy_of(state))
    chex.assert_trees_all_close(state.average, expected, atol=1e-6)


KNOBS = {
    "temperature": 0.5, "samples": 6, "minibatches": 1,
    "optimizer": (("weight_decay", 0.9),), "turns": 2, "fixed": 1,
}  # fmt: skip


@pytest.mark.parametrize("field", slowly(KNOBS))
def test_every_field_of_a_setup_is_alive(field):
    other, _ = run("grpo", 2, **{field: KNOBS[field]})
    assert distance(policy_of(other), policy_of(run("grpo", 2)[0])) > 1e-3


def test_a_state_left_on_the_host_goes_on_as_it_was():
    """What resuming rests on: an iteration is a function of the state and what is given."""
    whole, _ = run("grpo", 2)
    half, _ = run("grpo", 1)
    resumed, _ = run("grpo", 1, state=jax.tree.map(jnp.asarray, half))
    chex.assert_trees_all_equal(jax.tree.leaves(whole.train), jax.tree.leaves(resumed.train))


def test_masters_keep_what_bf16_would_lose():
    """At a rate too small to move a bf16 parameter in one step."""
    moved = []
    for masters in (True, False):
        tx = Optimization(warmup_steps=0, masters=masters).make(1e-5, 400)
        params = {"w": jnp.ones(4, jnp.bfloat16)}
        state = tx.init(params)

        @quick
        def update(carry, tx=tx):
            def one(_, carry):
                params, state = carry
                updates, state = tx.update({"w": jnp.ones(4)}, state, params)
                return optax.apply_updates(params, updates), state

            return jax.lax.fori_loop(0, 400, one, carry)

        params, _ = update((params, state))
        moved.append(float(params["w"][0]) < 1)
    assert moved == [True, False]


# Rows.


def rows_of(B, samples=1, T=5, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (B, T)).astype(np.int32)
    tokens[:, 0] = np.arange(B) // samples  # the prompt
    tokens[:, 1] = np.arange(B)
    mask = np.arange(T)[None] >= rng.integers(1, T, B)[:, None]
    played = np.ones((B, 2), bool)
    turns = Turns(*map(jnp.asarray, (played, np.zeros((B, 2), np.int32), played * 1.0, tokens)))
    made = Rows(
        jnp.asarray(tokens), jnp.full(B, T, jnp.int32), jnp.asarray(mask), samples=samples,
        turns=turns,
    )  # fmt: skip
    return dataclasses.replace(made, rejected=dataclasses.replace(made, turns=None))


@pytest.mark.parametrize(("count", "epochs", "samples"), [(1, 1, 3), (2, 1, 3), (4, 3, 1)])
def test_minibatches_hold_every_row_once_an_epoch_and_groups_together(count, epochs, samples):
    B = 12
    rows = rows_of(B, samples)
    batches = minibatches(jax.random.key(0), rows, count, epochs)
    assert batches.tokens.shape[:2] == (count * epochs, B // count)
    order = np.asarray(batches.tokens[..., 1]).reshape(epochs, B)
    assert (np.sort(order, axis=1) == np.arange(B)).all()
    assert len({one.tobytes() for one in order}) == epochs
    assert not (order == np.arange(B)).all()
    groups = order.reshape(-1, samples)
    assert (groups == groups[:, :1] + np.arange(samples)).all()
    assert (groups[:, 0] % samples == 0).all()
    flat = jax.tree.map(lambda leaf: leaf.reshape(epochs * B, *leaf.shape[2:]), batches)
    expected = jax.tree.map(lambda leaf: leaf[order.ravel()], rows)
    chex.assert_trees_all_equal(jax.tree.leaves(flat), jax.tree.leaves(expected))


def test_minibatches_that_cut_groups_are_named():
    with pytest.raises(ValueError, match="minibatches=3 must divide the 4 prompts"):
        minibatches(jax.random.key(0), rows_of(12, 3), 3, 1)


@pytest.mark.parametrize("size", [6, 7, 16])
def test_rows_that_fill_up_have_no_weight(size):
    rows = rows_of(6, 3)
    padded = pad_rows(rows, size)
    assert len(padded.tokens) == size
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[:6], padded), rows)
    assert not padded.mask[6:].any()
    assert not padded.rejected.mask[6:].any()
    assert not padded.turns.played[6:].any()
    assert np.isfinite(padded.tokens).all()


@pytest.mark.parametrize(("B", "at_once"), [(1, 4), (5, 2), (8, 3), (9, 100)])
@pytest.mark.parametrize("devices", [1, 4])
def test_some_rows_at_a_time_are_the_plain_function(B, at_once, devices):
    rows = rows_of(B)

    def fn(shared, some):
        return {"sum": shared * jnp.sum(some.tokens, axis=1), "tokens": some.tokens}

    policy = toy_study.policy(devices)
    found = quick(lambda rows: by_rows(fn, policy, jnp.int32(2), rows, at_once))(rows)
    chex.assert_trees_all_equal(found, fn(2, rows))


@pytest.mark.parametrize(("B", "at_once"), [(1, 4), (5, 2), (9, 100)])
@pytest.mark.parametrize("sizes", [(1, 4, 1), (1, 2, 2), (2, 2, 1)], ids=str)
def test_a_sharded_policys_rows_come_back_in_their_order(B, at_once, sizes):
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    policy = toy_policy.policy(mesh=mesh, replicated=False)
    rows = rows_of(B)

    def fn(shared, some):
        return jnp.sum(some.tokens, axis=1) + shared

    found = quick(lambda rows: by_rows(fn, policy, jnp.int32(2), rows, at_once))(rows)
    np.testing.assert_array_equal(found, fn(2, rows))


@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("devices", [1, 4])
def test_each_device_for_its_keys_is_the_plain_function(count, devices):
    keys = jax.random.split(jax.random.key(0), count)

    def fn(shared, some):
        return jax.vmap(jax.random.uniform)(some) + shared

    mesh = make_mesh(data=devices)
    found = quick(lambda keys: by_keys(fn, mesh, jnp.float32(1), keys))(keys)
    np.testing.assert_array_equal(found, fn(1, keys))


def test_metrics_are_means_over_what_they_count():
    sums = {"loss": 2.0, "gradient_norm": 3.0, "tokens": 4.0, "clipped": 2.0}
    found = per_counted({name: jnp.float32(x) for name, x in sums.items()})
    assert {n: float(x) for n, x in found.items()} == {**sums, "clipped": 0.5}
    assert per_counted({"loss": 1, "tokens": jnp.float32(0), "x": 0.0})["x"] == 0


@pytest.mark.parametrize(("devices", "count"), [(1, 3), (4, 4)])
def test_microbatches_hold_at_most_so_many_rows_of_a_device(devices, count):
    assert microbatches(toy_study.policy(devices), 6, 2, tokens).count == count


def test_sizes_count_prompts():
    assert Sizes(12, 3).prompts == 4


# Who plays.


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("policy", "grpo"),
        pytest.param("base", "self_sft", marks=pytest.mark.slow),
        pytest.param("teacher", "distilled", marks=pytest.mark.slow),
    ],
)
def test_rows_are_played_by_whom_the_source_names(source, name):
    policies = {who: toy_policy.make(n) for n, who in enumerate(("policy", "base", "teacher"))}

    def tokens_by(**changes):
        who = {**policies, **changes}
        known = dataclasses.replace(given(), base=who["base"], teacher=who["teacher"])
        return drawn(name, start=who["policy"], known=known)[0].tokens

    plain = tokens_by()
    for who in policies:
        assert np.array_equal(plain, tokens_by(**{who: toy_policy.make(4)})) == (who != source)
