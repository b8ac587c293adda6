import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models.value_head import ValueHead
from tests.oracles.tiny_transformers import quick

HIDDEN = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)


@pytest.mark.parametrize("widths", [(), (7,), (7, 5)])
def test_matches_numpy(widths):
    head = ValueHead(widths=widths)
    params = quick(head.init)(jax.random.key(0), HIDDEN)
    layers = params["params"]["mlp"]
    assert [layers[f"Dense_{n}"]["kernel"].shape[1] for n in range(len(layers))] == [*widths, 1]
    x = HIDDEN
    for n in range(len(layers)):
        x = x @ layers[f"Dense_{n}"]["kernel"]
        x = np.maximum(x, 0) if n < len(widths) else x
    np.testing.assert_allclose(quick(head.apply)(params, HIDDEN), x[..., 0], atol=1e-5)


def test_values_are_float32_whatever_the_trunk_computes_in():
    head = ValueHead(widths=(4,))
    params = quick(head.init)(jax.random.key(0), HIDDEN)
    values = quick(head.apply)(params, HIDDEN.astype(jnp.bfloat16))
    chex.assert_shape(values, (2, 3))
    chex.assert_type([values, *jax.tree.leaves(params)], jnp.float32)
    np.testing.assert_allclose(values, quick(head.apply)(params, HIDDEN), atol=0.05)
