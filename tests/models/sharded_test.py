"""Spread over a mesh = on one device."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oracles import sharded

EIGHT = [(d, f, 8 // d // f) for d, f in itertools.product((1, 2, 4, 8), repeat=2) if d * f <= 8]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(2, 2, 1), (1, 2, 2)])
def test_four_devices_compute_what_one_does(data, fsdp, tensor):
    sharded.check(data=data, fsdp=fsdp, tensor=tensor, tied=True)


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
def test_eight_devices_compute_what_one_does_on_every_mesh(first):
    """In a process of its own, which has eight; every other mesh has a tied head."""
    meshes = EIGHT[first::2]
    program = f"""
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
from tests.oracles import sharded
for n, (data, fsdp, tensor) in enumerate({meshes}):
    sharded.check(data=data, fsdp=fsdp, tensor=tensor, tied=n % 2 == {int(first)})
    print(data, fsdp, tensor)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(run.stdout.splitlines()) == len(meshes) == 5
