"""Every method learns on every kind of mesh of eight devices as it does on one."""

import pytest

from rlrazor.methods import methods
from tests.models.sharded_test import EIGHT
from tests.oracles.eight_devices import lines_of

pytestmark = pytest.mark.slow
HALVES = [[*methods.all_methods()][n::2] for n in range(2)]


@pytest.mark.parametrize("half", range(2))
def test_every_method_learns_on_eight_devices_as_on_one(half):
    """In a process of its own, which has eight; the meshes take turns over the methods."""
    turns = [(name, EIGHT[(n + 5 * half) % len(EIGHT)]) for n, name in enumerate(HALVES[half])]
    program = f"""
from rlrazor.runtime.mesh import make_mesh
from tests.oracles import sharded_methods
for name, (data, fsdp, tensor) in {turns}:
    sharded_methods.check(name, make_mesh(data=data, fsdp=fsdp, tensor=tensor))
    print(name, data, fsdp, tensor, flush=True)
"""
    assert len(lines_of(program)) == len(HALVES[half])


def test_every_mesh_has_its_turn():
    met = {EIGHT[(n + 5 * h) % len(EIGHT)] for h in range(2) for n in range(len(HALVES[h]))}
    assert met == {*EIGHT}
