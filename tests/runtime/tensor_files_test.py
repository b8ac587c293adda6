"""Slices of stored tensors, and files written one tensor after the other, against the library."""

import json
import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rlrazor.runtime.tensor_files import Planned, TensorFolder, read_json, to_host, write_tensors

RNG = np.random.default_rng(0)
TENSORS = {
    "wide": RNG.normal(size=(6, 10)).astype(np.float32),
    "half": RNG.normal(size=(4, 3)).astype(ml_dtypes.bfloat16),
    "old": RNG.normal(size=7).astype(np.float16),
    "odd": RNG.normal(size=(3, 1)).astype(ml_dtypes.bfloat16),
}


def write(folder, *, max_shard_bytes=10**9, tensors=TENSORS):
    folder.mkdir(exist_ok=True)
    planned = [Planned(name, array.shape, array.dtype) for name, array in tensors.items()]
    write_tensors(folder, planned, iter(tensors.values()), max_shard_bytes=max_shard_bytes)
    return folder


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("wide", np.s_[2:5, 3:10]),
        ("wide", np.s_[0:6, 9:10]),
        ("half", np.s_[1:2, 0:3]),
        ("old", np.s_[3:7]),
    ],
)
def test_a_slice_is_read_and_no_more(tmp_path, name, index):
    save_file(TENSORS, tmp_path / "model.safetensors")
    files = TensorFolder(tmp_path)
    assert files.bytes_read == 0
    assert files.bytes_stored == sum(array.nbytes for array in TENSORS.values())
    expected = TENSORS[name][index]
    part = files.read(name, index)
    assert part.dtype == expected.dtype
    np.testing.assert_array_equal(part, expected)
    assert files.bytes_read == expected.nbytes
    files.read(name, index)
    assert files.bytes_read == 2 * expected.nbytes


@pytest.mark.parametrize(("limit", "files"), [(10**9, 1), (270, 2), (40, 3), (1, 4)])
def test_what_is_written_the_library_reads(tmp_path, limit, files):
    write(tmp_path, max_shard_bytes=limit)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == files
    found = {name: array for shard in shards for name, array in load_file(shard).items()}
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safe_open(shards[0], "np") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert (tmp_path / "model.safetensors.index.json").exists() == (files > 1)
    if files > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(a.nbytes for a in TENSORS.values())
        assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert TensorFolder(tmp_path).stored.keys() == TENSORS.keys()


def test_views_are_written_as_they_look(tmp_path):
    views = {"turned": TENSORS["wide"].T, "skipped": TENSORS["wide"][:, ::3]}
    found = load_file(write(tmp_path, tensors=views) / "model.safetensors")
    for name, array in views.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_tensor_that_is_not_as_planned_is_named(tmp_path):
    planned = [Planned("a", (2,), np.dtype(np.float32))]
    message = re.escape("'a' was planned as float32[2], got float32[3]")
    with pytest.raises(ValueError, match=message):
        write_tensors(tmp_path, planned, [np.zeros(3, np.float32)], max_shard_bytes=9)


def test_arrays_of_this_process_come_to_the_host(tmp_path):
    for array in (jnp.arange(3), np.arange(3)):
        assert isinstance(to_host(array), np.ndarray)
        np.testing.assert_array_equal(to_host(array), [0, 1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("3", "must hold a JSON object, got int"), (b"\xff", "is not JSON")],
)
def test_what_is_no_json_object_is_named(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"a.json {message}"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"b.json cannot be read \(No such file"):
        read_json(tmp_path / "b.json")
