"""Compiling for TPU chips that the machine does not have."""

import importlib.util
import re

import pytest

NEEDS_TPU_COMPILER = [
    pytest.mark.tpu,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu]'"
    ),
]
COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)\b"
)
