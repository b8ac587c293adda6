"""An iteration of the rule-shift study and its measurements compile for eight TPU v5e chips."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs.sft_memorizes_gp_l import get_config
from experiments.general_points.base import load_base
from experiments.general_points.language import make_player
from experiments.rule_shift.arms import ARMS
from experiments.rule_shift.measure import build_measure
from experiments.rule_shift.objectives import make_context
from experiments.rule_shift.programs import Given, build_run
from experiments.rule_shift.tasks import make_tests, training_tasks
from rlrazor.runtime.tokenizer import vocabulary
from tests.oracles.topology import COLLECTIVE, NEEDS_TPU_COMPILER

pytestmark = NEEDS_TPU_COMPILER
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def study():
    base = load_base(ROOT / "experiments" / "bases" / "gp_small")
    words, config = vocabulary(base.tokenizer), get_config("full")
    player = make_player(base.model, base.tokenizer, answer_size=32, answer_bytes=128)
    return base, words, config, player, make_context(base.model, words, config)


def on(mesh, tree):
    """Shapes of arrays of which every chip holds a copy."""
    sharding = NamedSharding(mesh, P())
    shapes = jax.eval_shape(lambda leaves: leaves, tree)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


@pytest.mark.parametrize("arm", ["sft", "grpo", "ppo_turns_3"])
def test_an_iteration_compiles_and_adds_gradients_across_chips(study, mesh, arm):
    base, words, config, player, context = study
    tasks = training_tasks(ARMS[arm].setting, words, rules=2, seed=0)
    given = Given(tasks, base.params, None, jnp.float32(1e-4), jnp.int32(10), jnp.int32(0))
    run = build_run(ARMS[arm], context, player, config, mesh)
    state = jax.eval_shape(run.initial, given, base.params)
    lowered: Any = jax.jit(run.iterate, donate_argnums=0).lower(on(mesh, state), on(mesh, given))
    program = lowered.compile()
    assert program.memory_analysis().temp_size_in_bytes < 12e9  # of 16 GB a chip
    assert COLLECTIVE.search(program.as_text())


def test_measurements_compile(study, mesh):
    base, words, config, player, context = study
    tests = make_tests(ARMS["sft"].setting, words)
    measure = build_measure(context, player, config, mesh)
    key = jax.random.key(0)
    samples = jax.eval_shape(measure.base_samples, base.params, tests, key)
    arguments = [on(mesh, x) for x in (base.params, base.params, tests, samples, key)]
    program: Any = jax.jit(measure.checkpoint).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < 12e9
