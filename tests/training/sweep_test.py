import dataclasses
import functools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.runtime.mesh import compile_once, make_mesh, map_runs, replicate, shard_runs
from rlrazor.training.state import init_state
from rlrazor.training.sweep import Run, batch_indices, make_chunk, run_optimizer

N, D = 22, 3  # examples, width
STEPS, BATCH = 2, 4  # a chunk is 8 examples: 2 chunks an epoch, 6 examples left over
OPTIMIZER = functools.partial(run_optimizer, weight_decay=0.1, clip_by_global_norm=1.0)


@functools.cache
def indices_fn(steps, batch_size, examples):
    return compile_once(
        functools.partial(batch_indices, steps=steps, batch_size=batch_size, examples=examples)
    )


def chunks(count, *, steps=STEPS, batch_size=BATCH, examples=N, seed=0):
    fn = indices_fn(steps, batch_size, examples)
    return [np.asarray(fn(jax.random.key(seed), chunk * steps)) for chunk in range(count)]


@pytest.mark.parametrize(
    ("steps", "batch_size", "examples", "chunks_per_epoch"),
    [(2, 4, 22, 2), (1, 4, 8, 2), (3, 2, 6, 1), (1, 1, 3, 3)],
)
def test_an_epoch_is_part_of_a_permutation(steps, batch_size, examples, chunks_per_epoch):
    got = chunks(3 * chunks_per_epoch, steps=steps, batch_size=batch_size, examples=examples)
    for epoch in range(3):
        of_epoch = got[epoch * chunks_per_epoch : (epoch + 1) * chunks_per_epoch]
        assert all(rows.shape == (steps, batch_size) for rows in of_epoch)
        seen = np.concatenate([rows.ravel() for rows in of_epoch])
        assert len(set(seen.tolist())) == len(seen) == chunks_per_epoch * steps * batch_size
        assert set(seen.tolist()) <= set(range(examples))


def test_every_epoch_and_key_has_its_own_order():
    orders = [np.stack(chunks(2, seed=0)), np.stack(chunks(4, seed=0)[2:])]
    orders.append(np.stack(chunks(2, seed=1)))
    assert len({order.tobytes() for order in orders}) == 3


def test_examples_left_over_in_one_epoch_return_in_another():
    assert set(np.stack(chunks(8)).ravel().tolist()) == set(range(N))


def test_chunks_of_any_length_walk_through_one_order():
    """A trajectory recorded step by step sees the very batches of the run in large chunks."""
    single = chunks(5, steps=1)  # 22 // 4 batches an epoch
    np.testing.assert_array_equal(np.concatenate(single[:4]), np.concatenate(chunks(2)))


def test_depends_on_nothing_but_key_and_step():
    there = chunks(6)
    fn = indices_fn(STEPS, BATCH, N)
    for chunk in (5, 0, 3):
        np.testing.assert_array_equal(fn(jax.random.key(0), chunk * STEPS), there[chunk])


def test_a_chunk_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="a chunk of 3 steps of 4 needs 12 examples, got 11"):
        batch_indices(jax.random.key(0), 0, steps=3, batch_size=4, examples=11)


def least_squares(params, batch, key, run):
    """Arm 0 fits the targets, arm 1 noise that it draws; base 1 has other targets."""
    inputs, targets, offset = batch
    error = inputs @ params - jnp.where(
        run.arm == 0, targets, jax.random.normal(key, targets.shape)
    )
    return jnp.mean(error**2) + offset, {"error": jnp.mean(jnp.abs(error))}


def chunk_fn(**sizes):
    return make_chunk(
        least_squares,
        OPTIMIZER,
        lambda data, rows, run: (data[0][rows], data[1][run.base, rows], data[2][run.base]),
        **{"steps": STEPS, "batch_size": BATCH, "examples": N, **sizes},
    )


def initial(run, _, shared):
    params = jnp.ones(D) + run.base.astype(jnp.float32)
    # One key for every run: the seed then acts through the order of the data alone.
    return init_state(params, OPTIMIZER(run), jax.random.key(7))


RNG = np.random.default_rng(0)
DATA = (
    RNG.normal(size=(N, D)).astype(np.float32),
    RNG.normal(size=(2, N)).astype(np.float32),  # targets of each base
    np.zeros(2, np.float32),  # a constant in each base's loss
)
# One run, then one that differs in each hyperparameter.
BASIC = {
    "arm": 1, "base": 0, "learning_rate": 0.1, "cosine": True,
    "warmup_steps": 2, "total_steps": 8, "seed": 0,
}  # fmt: skip
OTHER = {
    "arm": 0, "base": 1, "learning_rate": 0.2, "cosine": False,
    "warmup_steps": 4, "total_steps": 16, "seed": 1,
}  # fmt: skip
RUNS = [BASIC] + [BASIC | {name: value} for name, value in OTHER.items()]
DTYPES = {"learning_rate": np.float32, "cosine": bool}


def stack(runs):
    return Run(**{n: np.array([run[n] for run in runs], DTYPES.get(n, np.int32)) for n in runs[0]})


def train(runs, mesh, *, chunks=4, data=DATA):
    """The state and metrics of the last of `chunks` chunks, on the host."""
    run, data = shard_runs(stack(runs), mesh), replicate(data, mesh)
    state = programs(mesh)[0](run, None, data)
    for _ in range(chunks):
        state, metrics = programs(mesh)[1](run, state, data)
    return jax.device_get((state.params, metrics))


@functools.cache
def programs(mesh):
    return map_runs(initial, mesh), map_runs(chunk_fn(), mesh, donate_state=True)


@pytest.fixture(scope="module")
def one_device():
    return make_mesh(data=1)


@pytest.fixture(scope="module")
def swept(one_device):
    return train(RUNS, one_device)


def test_every_run_of_a_sweep_is_the_solo_run_to_the_bit(swept, one_device):
    for row, run in enumerate(RUNS):
        alone = train([run], one_device)
        mine = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], swept)
        chex.assert_trees_all_equal(mine, alone)


def test_sharded_over_four_devices_equals_unsharded_to_the_bit(swept):
    assert len(RUNS) == 8  # two on each device
    chex.assert_trees_all_equal(train(RUNS, make_mesh(data=2, fsdp=2)), swept)


def test_runs_in_sequence_equal_runs_side_by_side(swept):
    """`map_runs` does the first on a CPU, the second on an accelerator."""
    side_by_side = compile_once(jax.vmap(chunk_fn(), in_axes=(0, 0, None)))
    run = stack(RUNS)
    state = compile_once(jax.vmap(initial, in_axes=(0, None, None)))(run, None, DATA)
    for _ in range(4):
        state, metrics = side_by_side(run, state, DATA)
    chex.assert_trees_all_close((state.params, metrics), swept, rtol=1e-5, atol=1e-6)


def test_every_swept_hyperparameter_is_alive(swept):
    params, metrics = swept
    assert np.all(metrics["finite"] == 1)
    for row, name in enumerate(OTHER, start=1):
        assert np.abs(params[row] - params[0]).max() > 1e-4, name
    assert set(OTHER) == {field.name for field in dataclasses.fields(Run)}


@pytest.fixture(scope="module")
def single_step():
    return compile_once(chunk_fn(steps=1))


def solo(run):
    run = jax.tree.map(operator.itemgetter(0), stack([run]))
    return run, compile_once(initial)(run, None, DATA)


def test_metrics_are_means_over_the_chunk(one_device, single_step):
    run, state = solo(BASIC)
    losses, errors = [], []
    for _ in range(STEPS):
        state, metrics = single_step(run, state, DATA)
        losses.append(metrics["loss"])
        errors.append(metrics["error"])
    _, metrics = train([BASIC], one_device, chunks=1)
    np.testing.assert_allclose(metrics["loss"], [np.mean(losses)], rtol=1e-6)
    np.testing.assert_allclose(metrics["error"], [np.mean(errors)], rtol=1e-6)


def test_different_hyperparameters_trace_once(one_device):
    chex.clear_trace_counter()
    fn = map_runs(chex.assert_max_traces(chunk_fn(), n=1), one_device)
    for run in RUNS:
        run, shared = shard_runs(stack([run]), one_device), replicate(DATA, one_device)
        fn(run, programs(one_device)[0](run, None, shared), shared)


def test_a_loss_that_is_not_finite_is_marked_in_its_run_alone(one_device):
    data = (*DATA[:2], np.float32([0, np.nan]))  # its gradient is as it was
    runs = [BASIC | {"base": int(row == 5)} for row in range(8)]
    _, metrics = train(runs, one_device, chunks=1, data=data)
    assert metrics["finite"].tolist() == [1, 1, 1, 1, 1, 0, 1, 1]


def test_weights_that_are_not_finite_are_marked(single_step):
    _, metrics = single_step(*solo(BASIC | {"learning_rate": np.inf}), DATA)
    assert np.isfinite(metrics["loss"])  # it was taken before the step
    assert metrics["finite"] == 0
