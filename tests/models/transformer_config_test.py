import dataclasses

import pytest

from tests.oracles.tiny_transformers import FULL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, r"heads=4 must be a multiple of kv_heads, got 3.*\[1, 2, 4\]"),
        ({"kv_heads": 8}, "heads=4 must be a multiple"),
        ({"head_dim": 5}, "head_dim must be even.*got 5, try 6"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"vocabulary": -1}, "vocabulary must be at least 1"),
        ({"compute_dtype": "float16"}, "compute_dtype must be 'float32' or 'bfloat16'.*'float16'"),
        ({"param_dtype": "bf16"}, "param_dtype must be"),
        ({"remat": True}, "remat must be 'none' or 'dots' or 'full', got True"),
        ({"attention": "flash"}, "attention must be 'einsum' or 'dot_product' or .*got 'flash'"),
        ({"rope_base": 0.0}, "rope_base must be positive"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must be positive"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FULL, **change)


def test_configs_are_values():
    assert hash(dataclasses.replace(FULL)) == hash(FULL)
    assert dataclasses.replace(FULL) == FULL
