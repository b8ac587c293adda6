"""Released shapes have as many parameters as their weights."""

import jax
import jax.numpy as jnp
import pytest

from rlrazor.models.released import SHAPES, released_shape
from rlrazor.models.transformer import Transformer

PARAMETERS = {  # as counted in the released files
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_as_many_as_released(name):
    model = Transformer(SHAPES[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


def test_an_instruct_model_has_the_shape_of_its_base():
    assert released_shape("Qwen/Qwen2.5-3B-Instruct") is SHAPES["Qwen/Qwen2.5-3B"]
    assert released_shape("somebody/else") is None
