import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.models.layers import GatedMLP, Linear, RMSNorm, matmul
from tests.oracles.tiny_transformers import FULL, quick

BF16 = dataclasses.replace(FULL, compute_dtype="bfloat16")
X = np.random.default_rng(0).normal(size=(2, 3, 12)).astype(np.float32)


def test_the_norm_is_computed_in_float32_and_rounded_once():
    scale = np.random.default_rng(1).normal(size=12).astype(np.float32)
    x = jnp.asarray(X, jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * scale
    out = quick(RMSNorm(BF16).apply)({"params": {"scale": scale}}, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=2**-8)


def test_the_norm_of_zero_is_zero_with_a_finite_gradient():
    params = {"params": {"scale": np.ones(12, np.float32)}}
    total = jax.value_and_grad(lambda x: RMSNorm(FULL).apply(params, x).sum())
    value, gradient = quick(total)(np.zeros((1, 12), np.float32))
    assert value == 0.0
    assert np.isfinite(gradient).all()


def test_the_gate_is_what_silu_passes():
    mlp = GatedMLP(FULL)
    params = quick(mlp.init)(jax.random.key(0), X)
    p = {name: np.asarray(leaf["kernel"], float) for name, leaf in params["params"].items()}
    gate = X @ p["gate"]
    expected = (gate / (1 + np.exp(-gate)) * (X @ p["up"])) @ p["down"]
    np.testing.assert_allclose(quick(mlp.apply)(params, X), expected, atol=1e-5)


def test_a_new_linear_map_keeps_the_size_of_its_input():
    x = jax.random.normal(jax.random.key(0), (64, 256))
    module = Linear(FULL, 256, scale=0.25)
    out = quick(lambda key: module.apply(module.init(key, x), x))(jax.random.key(1))
    np.testing.assert_allclose(jnp.std(out), 0.5, rtol=0.05)


def test_matmul_keeps_leading_axes_and_sums_in_the_asked_type():
    kernel = np.random.default_rng(1).normal(size=(12, 5)).astype(np.float32)
    np.testing.assert_allclose(quick(matmul)(X, kernel), X @ kernel, atol=1e-5)
    half = X.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    wide = quick(lambda *a: matmul(*a, jnp.float32))(*half)
    assert (wide.dtype, quick(matmul)(*half).dtype) == (jnp.float32, jnp.bfloat16)
    exact = np.asarray(half[0], float) @ np.asarray(half[1], float)
    np.testing.assert_allclose(wide, exact, atol=1e-4)
