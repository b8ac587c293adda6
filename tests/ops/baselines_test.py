"""The advantages of rloo, of torch's standard deviation, and of a whitened batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.ops import advantages

pytestmark = pytest.mark.usefixtures("strict_dtypes")

leave_one_out = jax.jit(advantages.leave_one_out)
studentised = jax.jit(advantages.studentised)
whitened = jax.jit(advantages.whitened)


def rewards(seed=0, shape=(4, 5)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_leave_one_out_equals_loops():
    r = rewards()
    expected = [[x - np.delete(row, i).mean() for i, x in enumerate(row)] for row in np.float64(r)]
    np.testing.assert_allclose(leave_one_out(r), expected, rtol=1e-4, atol=1e-6)


def test_leave_one_out_by_hand():
    np.testing.assert_allclose(
        leave_one_out(jnp.array([[1.0, 0.0, 0.0]])), [[1.0, -0.5, -0.5]], rtol=1e-6
    )


@pytest.mark.parametrize("epsilon", [0.0, 1e-4, 0.5])
def test_studentised_equals_numpy_with_one_degree_of_freedom_less(epsilon):
    r = rewards(1)
    wide = r.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / (wide.std(1, ddof=1, keepdims=True) + epsilon)
    np.testing.assert_allclose(studentised(r, epsilon=epsilon), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("G", [1, 3])
def test_equal_rewards_give_exactly_zero(G):
    r = np.full((2, G), 0.1, np.float32)
    np.testing.assert_array_equal(leave_one_out(r), np.zeros((2, G)))
    np.testing.assert_array_equal(studentised(r, epsilon=0.0), np.zeros((2, G)))
    everything = np.ones((2, G), bool)
    np.testing.assert_array_equal(whitened(r, everything, epsilon=0.0), np.zeros((2, G)))


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_whitened_equals_numpy_on_what_is_kept(epsilon):
    a, mask = rewards(2), rewards(3) > -0.3
    mask[0, 0] = False
    dirty = np.where(mask, a, np.float32(np.nan))
    kept = a[mask].astype(np.float64)
    expected = np.zeros(a.shape)
    expected[mask] = (kept - kept.mean()) / (kept.std() + epsilon)
    actual = whitened(dirty, mask, epsilon=epsilon)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_whitening_nothing_gives_zero():
    nothing = whitened(np.full((2, 3), np.nan, np.float32), np.zeros((2, 3), bool), epsilon=1e-5)
    np.testing.assert_array_equal(nothing, np.zeros((2, 3)))


def test_nan_that_counts_shows():
    bad = jnp.array([[1.0, jnp.nan, 0.0]])
    assert np.isnan(leave_one_out(bad)).any()
    assert np.isnan(studentised(bad, epsilon=1e-4)).any()
    assert np.isnan(whitened(bad, jnp.ones((1, 3), bool), epsilon=1e-4)).any()
