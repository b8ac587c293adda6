"""An iteration of the rule-shift study and its KL compile for eight TPU v5e chips."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs.sft_memorizes_gp_l import get_config
from experiments.general_points.base import load_base
from experiments.rule_shift.arms import read_name
from experiments.rule_shift.base import small_policy
from experiments.rule_shift.study import sizes_of
from experiments.rule_shift.tasks import make_tests, training_tasks
from rlrazor.methods.sources import rows_of
from rlrazor.runtime.tokenizer import END, vocabulary
from rlrazor.studies.device import OnDevice, itself, sampled
from rlrazor.studies.measurements import AS_IT_IS, distances
from rlrazor.studies.programs import Given, Optimization, Setup, initial
from tests.oracles.topology import COLLECTIVE, NEEDS_TPU_COMPILER

pytestmark = NEEDS_TPU_COMPILER
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def study(mesh):
    base = load_base(ROOT / "experiments" / "bases" / "gp_small")
    policy = small_policy(
        base.model.config, base.tokenizer, mesh, answer_tokens=32, temperature=1.0
    )
    return base, vocabulary(base.tokenizer), policy


def on(mesh, tree):
    """Shapes of arrays of which every chip holds a copy."""
    sharding = NamedSharding(mesh, P())
    shapes = jax.eval_shape(lambda leaves: leaves, tree)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


@pytest.mark.parametrize("arm", ["sft", "grpo", "ppo_turns_3"])
def test_an_iteration_compiles_and_adds_gradients_across_chips(study, mesh, arm):
    base, words, policy = study
    named, config = read_name(arm), get_config("full")
    setup = Setup(
        policy, named.method, sizes_of(named, config), Optimization(), named.setting.turns
    )
    tasks = training_tasks(named.setting, words, rules=2, seed=0)
    given = Given(base.params, None, jnp.float32(1e-4), jnp.int32(10), jnp.int32(0))
    state = jax.eval_shape(functools.partial(initial, setup), given, base.params)
    iterate = OnDevice(tasks, itself, END).iteration(setup)
    lowered: Any = jax.jit(iterate, donate_argnums=0).lower(
        on(mesh, state), on(mesh, given), on(mesh, tasks)
    )
    program = lowered.compile()
    assert program.memory_analysis().temp_size_in_bytes < 12e9  # of 16 GB a chip
    assert COLLECTIVE.search(program.as_text())


def test_sampling_and_divergence_compile(study, mesh):
    base, words, policy = study
    tests = make_tests(read_name("sft").setting, words)

    def answer(params, task, key):
        keys = jax.random.split(key, 512)
        return rows_of(sampled(params, policy, task, keys, AS_IT_IS, turns=1))

    given = on(mesh, (base.params, tests.new, jax.random.key(0)))
    rows = jax.eval_shape(answer, *given)
    measure: Any = distances(policy, rows_at_once=64)
    for fn, arguments in (
        (jax.jit(answer), given),
        (measure, (given[0], given[0], on(mesh, rows))),
    ):
        program = fn.lower(*arguments).compile()
        assert program.memory_analysis().temp_size_in_bytes < 12e9
