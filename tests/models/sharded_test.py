"""Spread over a mesh = on one device."""

import itertools

import pytest

from tests.oracles import sharded
from tests.oracles.eight_devices import lines_of

EIGHT = [(d, f, 8 // d // f) for d, f in itertools.product((1, 2, 4, 8), repeat=2) if d * f <= 8]


@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(2, 2, 1), (1, 2, 2)])
def test_four_devices_compute_what_one_does(data, fsdp, tensor):
    sharded.check(data=data, fsdp=fsdp, tensor=tensor, tied=True)


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
def test_eight_devices_compute_what_one_does_on_every_mesh(first):
    """In a process of its own, which has eight; every other mesh has a tied head."""
    meshes = EIGHT[first::2]
    program = f"""
from tests.oracles import sharded
for n, (data, fsdp, tensor) in enumerate({meshes}):
    sharded.check(data=data, fsdp=fsdp, tensor=tensor, tied=n % 2 == {int(first)})
    print(data, fsdp, tensor)
"""
    assert len(lines_of(program)) == len(meshes) == 5
