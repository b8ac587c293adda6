import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.ops import masked

pytestmark = pytest.mark.usefixtures("strict_dtypes")

masked_mean = jax.jit(masked.masked_mean)


def test_equals_numpys_masked_mean():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 7)).astype(np.float32)
    mask = rng.random((5, 7)) < 0.6
    expected = np.ma.masked_array(x.astype(np.float64), ~mask).mean()
    np.testing.assert_allclose(masked_mean(jnp.array(x), jnp.array(mask)), expected, rtol=1e-6)


def test_gradient_is_one_over_the_masks_own_count():
    mask = jnp.array([[True, False, True], [False, False, True]])
    gradient = jax.grad(masked_mean)(jnp.ones((2, 3)), mask)
    np.testing.assert_allclose(gradient, np.asarray(mask) / 3, rtol=1e-6)


@pytest.mark.parametrize("garbage", [jnp.nan, jnp.inf, -jnp.inf])
def test_dropped_garbage_changes_neither_value_nor_gradient(garbage):
    mask = jnp.array([True, False, True])
    x = jnp.array([1.0, garbage, 4.0])
    # Not compiled: XLA turns a multiplication by the mask into a selection, and would forgive it.
    value, gradient = jax.value_and_grad(masked.masked_mean)(x, mask)
    assert value == 2.5
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])


def test_empty_mask_is_zero_with_zero_gradient():
    mask = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(masked_mean)(jnp.full(3, jnp.nan), mask)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_kept_nan_shows():
    assert jnp.isnan(masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([True, True])))


def test_accumulates_bfloat16_in_float32():
    mean = masked_mean(jnp.ones(1001, jnp.bfloat16), jnp.ones(1001, bool))
    assert mean.dtype == jnp.float32
    assert mean == 1.0  # bfloat16 would count 1000


def test_refuses_a_mask_of_another_shape_or_type():
    with pytest.raises(AssertionError, match="shape"):
        masked_mean(jnp.ones((2, 3)), jnp.ones((2, 1), bool))
    with pytest.raises(AssertionError, match="type"):
        masked_mean(jnp.ones(3), jnp.ones(3))


def test_vmapped_equals_solo_and_traces_once():
    x = jnp.array(np.random.default_rng(1).normal(size=(4, 6)), jnp.float32)
    mask = x > -0.3
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(masked.masked_mean, n=1))
    solo = jnp.stack([traced(a, m) for a, m in zip(x, mask, strict=True)])
    np.testing.assert_allclose(jax.vmap(masked_mean)(x, mask), solo, rtol=1e-6)
