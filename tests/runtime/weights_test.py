"""Weights in a file: what is read is what was written, and every other file is refused by name."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlrazor.runtime.weights import load_weights, save_weights

PARAMS = {
    "params": {
        "embed": {"embedding": np.arange(6, dtype=np.float32).reshape(3, 2)},
        "layers": {"scale": np.ones(4, np.float32), "count": np.int32(7)},
        "half": np.array([1.5, -2], ml_dtypes.bfloat16),
    }
}


@pytest.fixture
def path(tmp_path):
    save_weights(tmp_path / "model.safetensors", PARAMS)
    return tmp_path / "model.safetensors"


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), b)


def test_a_round_trip_keeps_names_shapes_types_and_bits(path):
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    for like in (PARAMS, shapes):
        assert_equal(load_weights(path, like), PARAMS)
    assert set(load_file(path)) == {
        "params.embed.embedding", "params.layers.scale", "params.layers.count", "params.half",
    }  # fmt: skip
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_device_arrays_are_saved_and_a_file_is_replaced(path):
    other = jax.tree.map(lambda x: jnp.asarray(x) + 1, PARAMS)
    save_weights(path, other)
    assert_equal(load_weights(path, PARAMS), jax.tree.map(np.asarray, other))


def change(**tensors):
    """(file's tensors) -> them with some replaced, or, for None, left out."""

    def made(named):
        named = {**named, **{name.replace("__", "."): x for name, x in tensors.items()}}
        return {name: x for name, x in named.items() if x is not None}

    return made


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (change(params__layers__scale=None), "lacks the tensor 'params.layers.scale'"),
        (change(params__extra=np.ones(2)), "holds the unknown tensor 'params.extra'"),
        (
            change(params__layers__scale=np.ones((2, 2), np.float32)),
            "has 'params.layers.scale' as float32[2, 2], the model as float32[4]",
        ),
        (
            change(params__layers__scale=np.ones(4, np.float16)),
            "has 'params.layers.scale' as float16[4], the model as float32[4]",
        ),
        (change(params__layers__count=np.int64(7)), "has 'params.layers.count' as int64[]"),
    ],
)
def test_a_file_of_another_model_is_named(path, broken, message):
    named = {k: np.asarray(v) for k, v in broken(load_file(path)).items()}
    save_file(named, path)
    with pytest.raises(ValueError, match=re.escape(f"{path} {message}")):
        load_weights(path, PARAMS)


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_named(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as safetensors")):
        load_weights(path, PARAMS)


def test_what_is_no_safetensors_file_is_named(path):
    path.write_text("not weights at all, but long enough for a header")
    for bad in (path, path.parent, path.with_name("none.safetensors")):
        with pytest.raises(ValueError, match=re.escape(f"{bad} cannot be read as safetensors")):
            load_weights(bad, PARAMS)


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    def full(file, data):
        with file.open("wb") as half:
            half.write(data[:9])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, jax.tree.map(np.zeros_like, PARAMS))
    assert_equal(load_weights(path, PARAMS), PARAMS)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from rlrazor.runtime import weights

def dies(file, data):
    with file.open("wb") as half:
        half.write(data[:9])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = dies
weights.save_weights(Path(sys.argv[1]), {"params": {"half": np.zeros(9)}})
"""


def test_a_killed_save_leaves_the_old_file_and_the_next_one_works(path):
    ended = subprocess.run([sys.executable, "-c", KILLED, path], cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL
    assert_equal(load_weights(path, PARAMS), PARAMS)
    save_weights(path, PARAMS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
