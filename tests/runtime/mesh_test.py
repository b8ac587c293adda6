import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.runtime.mesh import (
    AXES,
    add_up,
    compile_once,
    each_alone,
    global_array,
    make_mesh,
    map_runs,
    my_rows,
    pad_runs,
    prepare_host,
    replicate,
    shard_runs,
)
from tests.oracles.topology import COLLECTIVE


def test_an_axis_of_zero_takes_the_devices_that_the_others_leave():
    assert len(jax.devices()) == 4
    for sizes, expected in [
        ({"data": 0}, (4, 1, 1)),
        ({"data": 0, "fsdp": 2}, (2, 2, 1)),
        ({"data": 0, "fsdp": 2, "tensor": 2}, (1, 2, 2)),
        ({"data": 1, "fsdp": 0}, (1, 4, 1)),
        ({"data": 2, "tensor": 0}, (2, 1, 2)),
    ]:
        mesh = make_mesh(**sizes)
        assert mesh.axis_names == AXES
        assert mesh.devices.shape == expected


def test_a_mesh_may_leave_devices_idle():
    assert make_mesh(data=3).devices.ravel().tolist() == jax.devices()[:3]
    assert make_mesh(data=1, devices=jax.devices()[2:]).devices.item() == jax.devices()[2]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 64}, r"data=64 x fsdp=1 x tensor=1 needs 64 devices, got 4 \(cpu\); lower"),
        ({"data": 2, "tensor": 3}, "needs 6 devices, got 4"),
        ({"data": 0, "fsdp": 0}, r"one may be 0 \(all devices\), got data=0, fsdp=0"),
        ({"data": 3, "fsdp": 0}, "data=3 x tensor=1 must divide the 4 devices"),
        ({"data": 0, "fsdp": 3}, "fsdp=3 x tensor=1 must divide the 4 devices"),
        ({"data": 0, "fsdp": 8}, "fsdp=8 x tensor=1 must divide the 4 devices"),
        ({"data": -1}, r"positive, one may be 0 \(all devices\), got data=-1"),
        ({"data": 1, "fsdp": -1}, "got data=1, fsdp=-1"),
        ({"data": 1, "tensor": -2}, "tensor=-2"),
    ],
)
def test_an_impossible_mesh_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes)


def affine(run, state, shared):
    """A stand-in for a training chunk: (run f32[], state f32[3], shared f32[3])."""
    return jnp.sin(state * run) + shared, jnp.sum(state)


R = 8
RUN = np.linspace(0.5, 2, R, dtype=np.float32)
STATE = np.random.default_rng(0).normal(size=(R, 3)).astype(np.float32)
SHARED = np.float32([1, 2, 3])


def mapped(mesh, **options):
    run, state = shard_runs((RUN, STATE), mesh)
    return map_runs(affine, mesh, **options)(run, state, replicate(SHARED, mesh))


@pytest.mark.parametrize("sizes", [{"data": 1}, {"data": 4}, {"data": 2, "fsdp": 2}])
def test_map_runs_equals_a_loop_on_any_mesh(sizes):
    expected = [affine(r, s, SHARED) for r, s in zip(RUN, STATE, strict=True)]
    expected = tuple(np.stack(column) for column in zip(*expected, strict=True))
    chex.assert_trees_all_close(mapped(make_mesh(**sizes)), expected, rtol=1e-6, atol=1e-6)


def test_map_runs_keeps_the_runs_spread_and_does_not_communicate():
    mesh = make_mesh(data=4)
    outputs = mapped(mesh)
    for output in outputs:
        shards = output.addressable_shards
        assert [shard.data.shape[0] for shard in shards] == [R // 4] * 4
    run, state = shard_runs((RUN, STATE), mesh)
    text = map_runs(affine, mesh).lower(run, state, replicate(SHARED, mesh)).compile().as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text


def test_a_cpu_takes_runs_in_turn_and_an_accelerator_side_by_side(monkeypatch):
    """Told apart by the width of the program's work: [3] for one run, [8, 3] for all."""

    def has_wide_work(mesh, **options):
        jaxpr = jax.make_jaxpr(map_runs(affine, mesh, **options))(RUN, STATE, SHARED)
        return f"f32[{R},3] = sin" in str(jaxpr)

    mesh = make_mesh(data=1)
    assert not has_wide_work(mesh)
    assert not has_wide_work(mesh, side_by_side=False)

    class Accelerator:
        platform = "tpu"

    class Pretender:  # a mesh of the CPU that claims to be of an accelerator
        devices = np.array([Accelerator()])

    monkeypatch.setattr(jax, "shard_map", lambda fn, **options: fn)
    assert has_wide_work(Pretender())
    assert not has_wide_work(Pretender(), side_by_side=False)


def test_donated_state_is_gone_and_other_state_stays():
    mesh = make_mesh(data=1)
    for donate in (True, False):
        run, state = shard_runs((RUN, STATE), mesh)
        fn = map_runs(lambda run, state, shared: state * run, mesh, donate_state=donate)
        fn(run, state, replicate(SHARED, mesh))
        assert state.is_deleted() == donate
        assert not run.is_deleted()


def test_traces_once_and_keeps_the_name_of_what_it_maps():
    mesh = make_mesh(data=1)
    chex.clear_trace_counter()
    fn = map_runs(chex.assert_max_traces(affine, n=1), mesh)
    run, state = shard_runs((RUN, STATE), mesh)
    fn(run, state, replicate(SHARED, mesh))
    fn(2 * run, state + 1, replicate(2 * SHARED, mesh))
    assert "affine" in map_runs(affine, mesh).lower(RUN, STATE, SHARED).as_text()[:200]


def test_replicate_copies_and_shard_runs_splits():
    mesh = make_mesh(data=2)
    whole, split = replicate(STATE, mesh), shard_runs(STATE, mesh)
    assert [shard.data.shape for shard in whole.addressable_shards] == [(R, 3)] * 2
    assert [shard.data.shape for shard in split.addressable_shards] == [(R // 2, 3)] * 2
    chex.assert_trees_all_equal(whole, STATE)
    chex.assert_trees_all_equal(split, STATE)


@pytest.mark.parametrize(
    ("count", "devices", "expected"),
    [(5, 4, [0, 1, 2, 3, 4, 4, 4, 4]), (4, 4, [0, 1, 2, 3]), (1, 4, [0] * 4), (3, 1, [0, 1, 2])],
)
def test_pad_runs_repeats_the_last(count, devices, expected):
    assert pad_runs(count, make_mesh(data=devices)).tolist() == expected


def test_compile_once_compiles():
    chex.clear_trace_counter()
    fn = compile_once(chex.assert_max_traces(lambda x: 2 * x, n=1))
    assert [float(fn(x)) for x in (1.0, 2.0, 3.0)] == [2.0, 4.0, 6.0]


def test_prepare_host_gives_every_core_a_device(monkeypatch):
    asked = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: asked.update({name: value}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    prepare_host()
    assert asked == {"jax_num_cpu_devices": 3}
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x --xla_cpu_multi_thread_eigen=false"


def test_prepare_host_respects_what_the_user_chose(monkeypatch):
    flags = "--xla_cpu_multi_thread_eigen=true --xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(jax.config, "update", lambda name, value: pytest.fail(name))
    prepare_host()
    assert os.environ["XLA_FLAGS"] == flags


@pytest.mark.slow
def test_prepare_host_in_a_fresh_process():
    program = (
        "from rlrazor.runtime.mesh import prepare_host; prepare_host(); import jax, os; "
        "assert len(jax.devices()) == len(os.sched_getaffinity(0)), jax.devices()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_devices_alone_and_added_up_agree_with_one():
    """Loops of different length on every device, and more parts than devices."""
    mesh, rows = make_mesh(data=4), jnp.arange(8)

    def double_until(limit, rows):
        return jax.lax.while_loop(lambda x: jnp.max(x) < limit, lambda x: 2 * x + 1, rows)

    alone = compile_once(each_alone(double_until, mesh))
    expected = [double_until(20, rows[i : i + 2]) for i in range(0, 8, 2)]
    np.testing.assert_array_equal(alone(20, rows), np.concatenate(expected))
    assert not COLLECTIVE.search(alone.lower(20, rows).compile().as_text())

    total = compile_once(add_up(lambda factor, part: {"sum": factor * part}, mesh))
    np.testing.assert_array_equal(total(3.0, rows)["sum"], 3 * 28)
    assert len(COLLECTIVE.findall(total.lower(3.0, rows).compile().as_text())) >= 1


@pytest.mark.parametrize(
    "sizes", [{"data": 4}, {"data": 2, "fsdp": 2}, {"data": 2, "tensor": 2}, {"data": 1}], ids=str
)
def test_a_process_alone_feeds_every_row_in_order(sizes):
    mesh = make_mesh(**sizes)
    rows = my_rows(8, mesh)
    assert rows.tolist() == list(range(8))
    batch = {"x": np.arange(24.0, dtype=np.float32).reshape(8, 3), "y": np.arange(8)}
    placed = global_array(jax.tree.map(lambda leaf: leaf[rows], batch), mesh)
    chex.assert_trees_all_equal(jax.device_get(placed), batch)
    cuts = mesh.shape["data"] * mesh.shape["fsdp"]
    assert {shard.data.shape for shard in placed["x"].addressable_shards} == {(8 // cuts, 3)}


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"batch of 9 rows .* data=2 x fsdp=2; try 12"):
        my_rows(9, make_mesh(data=2, fsdp=2))
