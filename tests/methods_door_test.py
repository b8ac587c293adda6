"""`rr.methods` has every method, whatever was imported before."""

import subprocess
import sys

import pytest

import rlrazor as rr
from rlrazor.methods import methods


def test_every_method_is_behind_the_door():
    for name, method in methods.all_methods().items():
        assert getattr(rr.methods, name) is method
    with pytest.raises(AttributeError, match="grop"):
        rr.methods.grop  # noqa: B018


@pytest.mark.parametrize("first", ["method", "sources", "methods"])
def test_the_order_of_imports_does_not_matter(first):
    code = f"import rlrazor.methods.{first}, rlrazor as rr; print(rr.methods.grpo.name)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "grpo\n"
