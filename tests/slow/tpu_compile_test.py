"""Every compiled step of the parity study compiles for a TPU v5e slice, without a TPU.

The topology comes from the `tpu` extra (libtpu) on a CPU-only machine.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from configs import razor_parity
from experiments.parity.arms import ARMS, TEACHERS
from experiments.parity.data import ParityData, Split
from experiments.parity.measure import evaluation_data
from experiments.parity.plan import PlannedRun, run_arrays
from experiments.parity.programs import build_programs, training_chunk
from experiments.parity.trajectory import make_traced_chunk
from rlrazor.models.mlp import MLP
from rlrazor.runtime.mesh import AXES, map_runs

pytestmark = pytest.mark.tpu
TOPOLOGY = "v5e:2x4"
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
EXAMPLES = 4096


@pytest.fixture(scope="module")
def mesh():
    pytest.importorskip("libtpu", reason="needs the tpu extra: pip install -e '.[tpu]'")
    environment = {
        "TPU_SKIP_MDS_QUERY": "1",  # nothing waits for a metadata server
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        from jax.experimental import topologies

        devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices
        yield Mesh(np.array(devices).reshape(-1, 1, 1), AXES)


@pytest.fixture(scope="module")
def config():
    config = razor_parity.get_config()
    config.test_examples = 1000
    config.activation_examples = 200
    return config


@pytest.fixture(scope="module")
def study(mesh, config):
    """(programs, run, state, data), all but the programs as shapes on the TPU mesh."""
    model = MLP(widths=tuple(config.model.widths), classes=10)
    programs = build_programs(model, config, mesh, examples=EXAMPLES)
    arms = [*ARMS] * 2  # 32 runs, 4 a device
    run = run_arrays(
        [PlannedRun(arm, seed, 5, 1e-4, "cosine", 1) for seed, arm in enumerate(arms)],
        arms=list(ARMS),
        bases=[(seed, 5) for seed in range(len(arms))],
        warmup_steps=config.warmup_steps,
        steps_per_epoch=programs.steps_per_epoch,
    )
    run = on(mesh, run, P(AXES))
    K = 2
    params = jax.eval_shape(
        lambda keys: jax.vmap(lambda key: model.init(key, jnp.zeros((1, 785))))(keys),
        jax.random.split(jax.random.key(0), K),
    )
    params = on(mesh, params, P())
    state = jax.eval_shape(programs.initial, run, None, params)
    data = {
        "inputs": np.zeros((EXAMPLES, 785), np.float32),
        "digits": np.zeros(EXAMPLES, np.int32),
        "base_logits": np.zeros((K, EXAMPLES, 10), np.float32),
        "labels": np.zeros((K, len(TEACHERS), EXAMPLES), np.int32),
        "has_label": np.ones((K, len(TEACHERS), EXAMPLES), bool),
        "wrong_labels": np.zeros((K, EXAMPLES), np.int32),
    }
    return model, programs, run, params, on(mesh, state, P(AXES)), on(mesh, data, P())


def on(mesh, tree, spec):
    """Shapes of the tree's arrays, sharded."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def test_initial_compiles(study):
    _, programs, run, params, *_ = study
    programs.initial.lower(run, None, params).compile()


def test_training_compiles_without_a_collective_and_donates_its_state(study):
    _, programs, run, _, state, data = study
    compiled = programs.train.lower(run, state, data).compile()
    text = compiled.as_text()
    assert not [name for name in COLLECTIVES if name in text]
    memory = compiled.memory_analysis()
    per_device = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params)) // 8
    assert memory.alias_size_in_bytes > 2.9 * per_device  # weights and both Adam moments


def test_measuring_compiles(study, config, mesh):
    model, programs, run, params, state, _ = study
    blank = Split(np.zeros((1000, 785), np.float32), np.zeros(1000, np.int32))
    data = ParityData("blank", blank, blank, blank, blank)
    views = jax.eval_shape(lambda params: evaluation_data(model, params, data, config), params)
    programs.measure.lower(run, state, on(mesh, views, P())).compile()


def test_the_traced_step_compiles(study, config, mesh):
    model, _, run, _, state, data = study
    chunk = training_chunk(model, config, steps=1, examples=EXAMPLES)
    probes = {
        "new_inputs": np.zeros((100, 785), np.float32),
        "prior_inputs": np.zeros((100, 785), np.float32),
        "prior_labels": np.zeros(100, np.int32),
        "base_logits": np.zeros((2, 100, 10), np.float32),
    }
    shared = {"data": data, "probes": on(mesh, probes, P())}
    map_runs(make_traced_chunk(model, chunk), mesh).lower(run, state, shared).compile()
