import json
import logging
import os
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlrazor.runtime.checkpoint import DIGEST, Checkpoints
from rlrazor.runtime.mesh import make_mesh, map_runs, replicate, shard_runs
from rlrazor.training.state import init_state


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(data=4)


@pytest.fixture(scope="module")
def make_state(mesh):
    """seed -> a TrainState of four runs, one a device, with everything that training carries."""

    def one_run(seed, _, shared):
        key = jax.random.key(seed)
        params = {
            "w": jax.random.normal(key, (5, 3)),
            "half": jax.random.normal(key, (3,)).astype(jnp.bfloat16),
            "tiny": jnp.float32(1e-42) * seed,  # subnormal
        }
        return init_state(params, optax.adam(0.1), key).replace(step=seed)

    start = map_runs(one_run, mesh)
    shared = replicate(np.float32(0), mesh)
    return lambda seed: start(shard_runs(np.arange(4, dtype=np.int32) + seed, mesh), None, shared)


@pytest.fixture
def open_checkpoints(tmp_path):
    opened = []

    def open_again(**options):
        opened.append(Checkpoints(tmp_path / "checkpoints", **options))
        return opened[-1]

    yield open_again
    for checkpoints in opened:
        checkpoints.close()


def as_bytes(tree):
    def one(leaf):
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes()

    return jax.tree.map(one, tree)


def folder_of(path: Path, position: int) -> Path:
    (found,) = [p for p in (path / "checkpoints").iterdir() if p.name == str(position)]
    return found


def files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_restores_every_bit_type_and_sharding(make_state, open_checkpoints, mesh):
    state = make_state(7)
    open_checkpoints().save(3, state, {"position": 3, "bytes": 17, "nested": [1, {"a": None}]})
    restored, note = open_checkpoints().restore_newest(lambda note: make_state(0))
    assert note == {"position": 3, "bytes": 17, "nested": [1, {"a": None}]}
    assert as_bytes(restored) == as_bytes(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    assert jax.dtypes.issubdtype(restored.key.dtype, jax.dtypes.prng_key)
    for leaf in jax.tree.leaves(restored):
        assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, P(mesh.axis_names)), leaf.ndim)


def test_a_restored_key_draws_as_before(make_state, open_checkpoints):
    state = make_state(7)
    open_checkpoints().save(1, state, {})
    restored, _ = open_checkpoints().restore_newest(lambda note: make_state(0))
    draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 5)))
    chex.assert_trees_all_equal(draw(restored.key), draw(state.key))


def test_restores_onto_another_mesh(make_state, open_checkpoints):
    """The mesh is not part of what a study computes: a resumed one may have another."""
    state, other = make_state(7), make_mesh(data=2)
    open_checkpoints().save(1, state, {})
    like = shard_runs(jax.device_get(make_state(0)), other)
    restored, _ = open_checkpoints().restore_newest(lambda note: like)
    assert as_bytes(restored) == as_bytes(state)
    assert restored.params["w"].sharding.device_set == set(jax.devices()[:2])


def test_restores_from_shapes_alone(make_state, open_checkpoints):
    """Where the template need not exist, there is never a second state in memory."""
    state = make_state(7)
    open_checkpoints().save(1, state, {})
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    restored, _ = open_checkpoints().restore_newest(lambda note: shapes)
    assert as_bytes(restored) == as_bytes(state)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert new.sharding.is_equivalent_to(old.sharding, old.ndim)


def test_a_whole_checkpoint_that_does_not_fit_the_state_is_kept(make_state, open_checkpoints):
    """Another model, or too little memory, is no reason to delete what was learnt."""
    open_checkpoints().save(1, make_state(7), {})
    with pytest.raises(ValueError, match="params"):
        open_checkpoints().restore_newest(lambda note: {"params": {"other": jnp.zeros(3)}})
    restored, _ = open_checkpoints().restore_newest(lambda note: make_state(0))
    assert as_bytes(restored) == as_bytes(make_state(7))


def test_keeps_the_newest_two(make_state, open_checkpoints, tmp_path):
    checkpoints = open_checkpoints()
    for position in (1, 2, 5, 6):
        checkpoints.save(position, make_state(position), {"position": position})
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert names == ["5", "6"]
    _, note = open_checkpoints().restore_newest(lambda note: make_state(note["position"]))
    assert note == {"position": 6}


def test_an_empty_folder_restores_nothing(open_checkpoints):
    assert open_checkpoints().restore_newest(lambda note: pytest.fail("not needed")) is None


def truncate_everything(folder):
    for path in files_in(folder):
        os.truncate(path, path.stat().st_size // 2)


def truncate_the_data(folder):
    largest = max(files_in(folder / "state"), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)


def flip_one_bit_of_the_data(folder):
    """Orbax alone would read this as a slightly different array."""
    largest = max(files_in(folder / "state"), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x10
    largest.write_bytes(content)


def lose_half_of_the_files(folder):
    for path in files_in(folder)[::2]:
        path.unlink()


def lose_the_arrays(folder):
    shutil.rmtree(folder / "state")


def lose_the_note(folder):
    shutil.rmtree(folder / "note")


def lose_the_digest(folder):
    """What a kill at the very end of a save leaves."""
    (folder / DIGEST).unlink()


def tear_the_note(folder):
    (path,) = [p for p in files_in(folder / "note") if b"position" in p.read_bytes()]
    path.write_text(json.dumps({"position": 2})[:-4])


def add_a_file(folder):
    (folder / "state" / "stray").touch()


DAMAGES = [
    truncate_everything, truncate_the_data, flip_one_bit_of_the_data, lose_half_of_the_files,
    lose_the_arrays, lose_the_note, lose_the_digest, tear_the_note, add_a_file,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_falls_back_and_says_so(
    damage, make_state, open_checkpoints, tmp_path, caplog
):
    checkpoints = open_checkpoints()
    for position in (1, 2):
        checkpoints.save(position, make_state(position), {"position": position})
    damage(folder_of(tmp_path, 2))
    with caplog.at_level(logging.WARNING):
        restored, note = open_checkpoints().restore_newest(lambda note: make_state(0))
    assert note == {"position": 1}
    assert as_bytes(restored) == as_bytes(make_state(1))
    (record,) = [r for r in caplog.records if r.name == "rlrazor.runtime.checkpoint"]
    assert record.levelname == "WARNING"
    assert "checkpoint 2 cannot be read" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_saving_goes_on_at_a_position_that_was_damaged(make_state, open_checkpoints, tmp_path):
    checkpoints = open_checkpoints()
    for position in (1, 2):
        checkpoints.save(position, make_state(position), {"position": position})
    truncate_everything(folder_of(tmp_path, 2))
    again = open_checkpoints()
    again.restore_newest(lambda note: make_state(0))
    again.save(2, make_state(20), {"position": 2})
    restored, note = open_checkpoints().restore_newest(lambda note: make_state(0))
    assert note == {"position": 2}
    assert as_bytes(restored) == as_bytes(make_state(20))


def test_all_damaged_restores_nothing_and_names_each(
    make_state, open_checkpoints, tmp_path, caplog
):
    checkpoints = open_checkpoints()
    for position in (1, 2):
        checkpoints.save(position, make_state(position), {"position": position})
        truncate_everything(folder_of(tmp_path, position))
    assert open_checkpoints().restore_newest(lambda note: make_state(0)) is None
    assert "checkpoint 1 cannot be read" in caplog.text
    assert "checkpoint 2 cannot be read" in caplog.text


def test_a_save_cut_off_in_the_middle_is_never_the_newest(make_state, open_checkpoints, tmp_path):
    checkpoints = open_checkpoints()
    checkpoints.save(1, make_state(1), {"position": 1})
    # What Orbax leaves when it is killed: a folder under a temporary name.
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(folder_of(tmp_path, 1), half)
    again = open_checkpoints()
    _, note = again.restore_newest(lambda note: make_state(0))
    assert note == {"position": 1}
    again.save(2, make_state(2), {"position": 2})
    assert open_checkpoints().restore_newest(lambda note: make_state(0))[1] == {"position": 2}


def test_saving_leaves_the_state_as_it_is(make_state, open_checkpoints):
    state = make_state(3)
    before = as_bytes(state)
    open_checkpoints().save(1, state, {})
    assert as_bytes(state) == before
