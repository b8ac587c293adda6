"""The study's programs compile for a TPU v5e of eight chips, on a machine that has none.

Needs the `tpu` extra (libtpu, which also compiles for a topology that it is only told about).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs.razor_parity import get_config
from experiments.parity.arms import ARMS, TEACHERS
from experiments.parity.data import ParityData, Split
from experiments.parity.measure import evaluation_data
from experiments.parity.plan import base_keys, plan_runs, run_arrays
from experiments.parity.programs import build_programs, training_chunk
from experiments.parity.trajectory import make_traced_chunk
from rlrazor.models.mlp import MLP
from rlrazor.runtime.mesh import AXES, map_runs
from tests.oracles.topology import COLLECTIVE, NEEDS_TPU_COMPILER

pytestmark = NEEDS_TPU_COMPILER

N, D, R = 60_000, 785, 64  # images, inputs with the task indicator, runs


@pytest.fixture(scope="module")
def config():
    """The full study, at its own sizes."""
    return get_config()


@pytest.fixture(scope="module")
def model(config):
    return MLP(widths=tuple(config.model.widths), classes=10)


@pytest.fixture(scope="module")
def placed(config, model, mesh):
    """Shapes and shardings of everything the programs take; no array is made on a device."""

    def with_sharding(tree, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    planned = plan_runs(config, list(ARMS))
    keys, planned = base_keys(planned), planned[:R]
    K = len(keys)
    run = run_arrays(planned, arms=list(ARMS), bases=keys, warmup_steps=50, steps_per_epoch=937)

    def bases_like(key):
        params = model.init(key, jnp.zeros((1, D)))
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (K, *leaf.shape)), params)

    bases = jax.eval_shape(bases_like, jax.random.key(0))
    split = Split(np.zeros((10_000, D), np.float32), np.zeros(10_000, np.int32))
    images = ParityData("fashion_mnist", *[split] * 4)
    views = jax.eval_shape(lambda params: evaluation_data(model, params, images, config), bases)
    shape = jax.ShapeDtypeStruct
    arrays = {
        "inputs": shape((N, D), jnp.float32),
        "digits": shape((N,), jnp.int32),
        "base_logits": shape((K, N, 10), jnp.float32),
        "labels": shape((K, len(TEACHERS), N), jnp.int32),
        "has_label": shape((K, len(TEACHERS), N), bool),
        "wrong_labels": shape((K, N), jnp.int32),
    }
    runs, everywhere = P(AXES), P()
    programs = build_programs(model, config, mesh, examples=N)
    shared = {
        "bases": with_sharding(bases, everywhere),
        "views": with_sharding(views, everywhere),
        "arrays": with_sharding(arrays, everywhere),
    }
    run = with_sharding(run, runs)
    state = with_sharding(jax.eval_shape(programs.initial, run, None, shared["bases"]), runs)
    return programs, run, state, shared


def compiled_text(program, *arguments):
    compiled = program.lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 12e9  # of 16 GB a chip
    return compiled.as_text()


def test_initial(placed):
    programs, run, _, shared = placed
    assert not COLLECTIVE.search(compiled_text(programs.initial, run, None, shared["bases"]))


def test_train(placed):
    """Runs never talk to each other; weights and optimizer state are updated in place."""
    programs, run, state, shared = placed
    text = compiled_text(programs.train, run, state, shared["arrays"])
    assert not COLLECTIVE.search(text)
    assert "input_output_alias" in text


def test_measure(placed):
    programs, run, state, shared = placed
    assert not COLLECTIVE.search(compiled_text(programs.measure, run, state, shared["views"]))


def test_trajectory(placed, model, config, mesh):
    _, run, state, shared = placed
    examples = config.trajectory.examples
    K = shared["arrays"]["labels"].shape[0]
    sharding = NamedSharding(mesh, P())

    def like(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    probes = {
        "new_inputs": like((examples, D), jnp.float32),
        "prior_inputs": like((examples, D), jnp.float32),
        "prior_labels": like((examples,), jnp.int32),
        "base_logits": like((K, examples, 10), jnp.float32),
    }
    chunk = training_chunk(model, config, steps=1, examples=N)
    traced = map_runs(make_traced_chunk(model, chunk), mesh)
    text = compiled_text(traced, run, state, {"data": shared["arrays"], "probes": probes})
    assert not COLLECTIVE.search(text)


def test_the_search_for_collectives_finds_one(mesh):
    spread = NamedSharding(mesh, P(AXES))
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))
    text = compiled_text(total, jax.ShapeDtypeStruct((1024,), jnp.float32, sharding=spread))
    assert COLLECTIVE.search(text)
