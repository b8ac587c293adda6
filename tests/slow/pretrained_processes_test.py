"""Two processes with two devices each: each reads its part of the files, the first one writes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rlrazor.models.pretrained import load_pretrained
from tests.oracles import tiny_checkpoints as tiny

pytestmark = pytest.mark.slow

PROCESS = """
import json, sys
import jax
from jax.sharding import NamedSharding, PartitionSpec as P

rank, port, folder, out = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"localhost:{port}", 2, rank)

from rlrazor.models.pretrained import load_pretrained, save_pretrained
from rlrazor.runtime.mesh import make_mesh

# The devices of a process lie along tensor, so fsdp is what cuts between processes.
mesh = make_mesh(data=1, fsdp=2, tensor=2)
assert len(jax.local_devices()) == 2

def lie(config, shapes):
    axes = {1: P(), 2: P("fsdp", "tensor"), 3: P(None, "tensor", "fsdp")}
    return jax.tree.map(lambda leaf: NamedSharding(mesh, axes[len(leaf.shape)]), shapes)

config, params, read = load_pretrained(folder, shardings=lie)
save_pretrained(out, config, params, max_shard_bytes=20_000)
print(json.dumps([read.bytes_read, read.bytes_stored]))
"""


def test_each_process_reads_its_part_and_the_first_one_writes(tmp_path):
    named = tiny.tensors("Qwen3")
    folder = tiny.write(tmp_path / "in", tiny.fields("Qwen3"), named, shards=3)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), port, folder, tmp_path / f"out{rank}"],
            env=env,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]

    # [L, ...] vectors of all layers are cut in two, other vectors read by both.
    _, params, _ = load_pretrained(folder)
    sizes = {1: 0, 2: 0, 3: 0}
    for leaf in jax.tree.leaves(params):
        sizes[leaf.ndim] += leaf.nbytes
    expected = sizes[1] + (sizes[2] + sizes[3]) // 2
    total = sum(array.nbytes for array in named.values())
    for text in told:
        assert json.loads(text.splitlines()[-1]) == [expected, total]
    assert expected < 0.51 * total

    assert not (tmp_path / "out1").exists()
    files = sorted((tmp_path / "out0").glob("*.safetensors"))
    assert len(files) > 2
    found = {name: array for file in files for name, array in load_file(file).items()}
    assert found.keys() == named.keys()
    for name, array in named.items():
        np.testing.assert_array_equal(found[name], array)
