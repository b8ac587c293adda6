"""An iteration as one program: methods learn, nothing is drawn twice, accidents are survived."""

import dataclasses
import functools
import gc
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rule_shift.arms import ARMS, METHODS
from experiments.rule_shift.objectives import Context
from experiments.rule_shift.programs import build_run
from experiments.rule_shift.study import Study
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.models.value_head import ValueHead
from rlrazor.runtime.mesh import compile_once, make_mesh
from tests.oracles import tiny_points, tiny_shift, tiny_transformers
from tests.oracles.tiny_shift import given, make_toy, programs, stacked

pytestmark = pytest.mark.usefixtures("quick_compiles")

POLICY = tiny_shift.toy().params[0]


def run(arm, iterations=1, *, state=None, known=None, **changes):
    """The state and the metrics after some iterations."""
    built, known = programs(arm, **changes), known or given()
    state = built.initial(known, POLICY) if state is None else state
    found = []
    for _ in range(iterations):
        state, metrics = built.iterate(state, known)
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def check_learnt(before, state, found):
    params = state.train.params
    chex.assert_tree_all_finite(params)
    assert distance(before, params["policy"]) > 1e-4
    for metrics in found:
        assert metrics["updates_skipped"] == 0
        assert metrics["gradient_norm"] > 0
        assert 0 < metrics["learnt_from"] <= 1
        assert all(np.isfinite(value) for value in metrics.values()), metrics


TOYS = [name for name, method in METHODS.items() if method.source != "pairs"]
QUICK = ("sft", "grpo")


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in TOYS],
)
def test_every_method_learns_for_two_iterations(method):
    state, found = run(method, 2)
    check_learnt(POLICY, state, found)
    how = METHODS[method]
    assert state.train.step == 2 * 2 * how.epochs
    assert ("critic" in state.train.params) == (how.objective == "ppo")
    assert (state.average is None) == (how.objective != "sdft")


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in TOYS],
)
def test_an_update_is_the_same_in_parts(method):
    """What each loss is a mean over is what its parts weigh."""
    (_, (cut,)), (_, (whole,)) = (run(method, rows_at_once=rows) for rows in (2, 100))
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS if m not in TOYS] + ["sft", "sdft"])
def test_methods_learn_from_real_hands(method):
    config = tiny_shift.tiny_config(rows=8)
    size = tiny_points.tokenizer().get_vocab_size()
    model, base = tiny_transformers.make(TransformerConfig(vocabulary=size, **tiny_shift.SHAPE))
    context = Context(model, ValueHead((4,)), config.objective, config.answer_tokens, 9)
    player = tiny_shift.real_player(model, tiny_points.tokenizer(), config)
    real = build_run(ARMS[method], context, player, config, make_mesh(data=1))
    tasks = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tiny_points.make(wordings=1))
    known = dataclasses.replace(given(), tasks=tasks, base=base, teacher=base)
    state = compile_once(real.initial)(known, base)
    iterate, found = compile_once(real.iterate), []
    for _ in range(2):
        state, metrics = iterate(state, known)
        found.append(jax.device_get(metrics))
    check_learnt(base, jax.device_get(state), found)


def test_an_iteration_again_is_the_same_and_the_next_one_is_not():
    """At learning rate 0 both iterations have one policy: what differs was drawn."""
    still = given(learning_rate=0.0)
    state, (first, second) = run("grpo", 2, known=still)
    chex.assert_trees_all_equal(state.train.params["policy"], jax.device_get(POLICY))
    again, metrics = run("grpo", 2, known=still)
    chex.assert_trees_all_equal(jax.tree.leaves(state.train), jax.tree.leaves(again.train))
    chex.assert_trees_all_equal([first, second], metrics)
    assert first["entropy_nats"] != second["entropy_nats"]
    assert first["gradient_norm"] != second["gradient_norm"]
    _, (other,) = run("grpo", known=given(learning_rate=0.0, seed=1))
    assert other["entropy_nats"] != first["entropy_nats"]


def test_equal_rewards_teach_grpo_nothing():
    unpaid = given(stacked(make_toy(pay=0.0)))
    state, found = run("grpo", 2, known=unpaid)
    chex.assert_trees_all_equal(state.train.params["policy"], jax.device_get(POLICY))
    assert [metrics["groups_alike"] for metrics in found] == [1, 1]
    assert [metrics["gradient_norm"] for metrics in found] == [0, 0]
    state, (metrics,) = run("grpo", state=state)
    assert metrics["groups_alike"] < 1
    assert distance(state.train.params["policy"], POLICY) > 1e-4


def test_a_gradient_that_is_no_number_is_skipped_and_counted():
    broken = given(stacked(make_toy(pay=np.nan)))
    state, (metrics,) = run("grpo", known=broken)
    chex.assert_trees_all_equal(state.train.params["policy"], jax.device_get(POLICY))
    assert metrics["updates_skipped"] == 2  # every minibatch
    assert state.train.step == 2
    state, (metrics,) = run("grpo", state=state)
    chex.assert_tree_all_finite(state.train.params)
    assert distance(state.train.params["policy"], POLICY) > 1e-4
    assert np.isfinite(metrics["loss"])


def test_one_program_serves_every_learning_rate():
    slow, _ = run("grpo", known=given(learning_rate=1e-4))
    fast, _ = run("grpo", known=given(learning_rate=1e-2))
    ends = [distance(state.train.params["policy"], POLICY) for state in (slow, fast)]
    assert ends[1] > 10 * ends[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "arm"), [("policy", "grpo"), ("base", "self_sft"), ("teacher", "distilled")]
)
def test_rows_are_played_by_whom_the_source_names(source, arm):
    built = programs(arm)

    def tokens(**changes):
        policies = dict(zip(("policy", "base", "teacher"), tiny_shift.toy().params, strict=False))
        policies |= changes
        known = dataclasses.replace(given(), base=policies["base"], teacher=policies["teacher"])
        state = built.initial(known, policies["policy"])
        return np.asarray(built.draw(state, known, jax.random.key(0))[0].tokens)

    plain = tokens()
    for name in ("policy", "base", "teacher"):
        changed = tokens(**{name: tiny_shift.toy().params[4]})
        assert np.array_equal(plain, changed) == (name != source)


@pytest.mark.slow
def test_the_teacher_of_self_distillation_is_a_moving_average():
    state, _ = run("sdft", 1)
    decay = tiny_shift.tiny_config().objective.sdft.average_decay
    expected = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, POLICY, state.train.params["policy"]
    )
    chex.assert_trees_all_close(state.average, expected, atol=1e-7)
    faster, _ = run("sdft", 1, **{"objective.sdft.average_decay": 0.5})
    assert distance(faster.average, POLICY) > 10 * distance(state.average, POLICY) > 0


RUN_KNOBS = {
    "temperature": 0.5,
    "samples": 6,
    "rows": 48,
    "minibatches": 3,
    "optimizer.weight_decay": 0.5,
    "optimizer.clip_by_global_norm": 1e-9,
    "optimizer.warmup_fraction": 1.0,
}


@functools.cache
def plain_run():
    return run("grpo", 2)[0].train.params["policy"]


@pytest.mark.slow
@pytest.mark.parametrize("field", RUN_KNOBS)
def test_every_field_of_a_run_is_alive(field):
    other, _ = run("grpo", 2, **{field: RUN_KNOBS[field]})
    assert distance(other.train.params["policy"], plain_run()) > 1e-4


@pytest.mark.slow
def test_a_state_restored_is_the_state_that_was_left():
    """What resuming rests on: an iteration is a function of the state and what is given."""
    whole, _ = run("ppo", 3)
    half, _ = run("ppo", 1)
    copied = jax.tree.map(lambda x: jnp.array(x) if hasattr(x, "dtype") else x, half)
    resumed, _ = run("ppo", 2, state=copied)
    chex.assert_trees_all_equal(jax.tree.leaves(whole.train), jax.tree.leaves(resumed.train))


def test_a_study_holds_the_programs_of_one_arm(tmp_path):
    """On a CPU some 40 arms' take all memory maps that Linux gives a process, and XLA crashes."""
    study = Study(tiny_shift.tiny_config(), tiny_shift.base(), tmp_path)
    first = weakref.ref(study.programs("sft")[1])
    assert first() is study.programs("sft")[1]
    study.programs("grpo")
    gc.collect()
    assert first() is None
