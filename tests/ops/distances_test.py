import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import euclidean
from scipy.special import log_softmax

from rlrazor.ops import distances
from rlrazor.ops.kl import kl
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

total_variation = jax.jit(distances.total_variation)
l2_distance = jax.jit(distances.l2_distance)

BOTH = pytest.mark.parametrize("distance", [total_variation, l2_distance])


def random_log_probs(seed, shape):
    logits = np.random.default_rng(seed).normal(scale=2, size=shape)
    return jnp.array(log_softmax(logits, axis=-1), jnp.float32)


def test_total_variation_is_the_largest_difference_over_all_events():
    log_p, log_q = random_log_probs(0, (4,)), random_log_probs(1, (4,))
    p, q = np.exp(np.float64(log_p)), np.exp(np.float64(log_q))
    events = itertools.product([0.0, 1.0], repeat=4)
    largest = max(abs(np.dot(event, p - q)) for event in events)
    np.testing.assert_allclose(total_variation(log_p, log_q), largest, rtol=1e-5)


def test_l2_equals_scipy():
    log_p, log_q = random_log_probs(2, (6, 5)), random_log_probs(3, (6, 5))
    p, q = np.exp(np.float64(log_p)), np.exp(np.float64(log_q))
    expected = [euclidean(a, b) for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(l2_distance(log_p, log_q), expected, rtol=1e-5)


def test_disjoint_supports_are_as_far_as_can_be():
    log_p, log_q = jnp.array([0.0, -jnp.inf]), jnp.array([-jnp.inf, 0.0])
    assert total_variation(log_p, log_q) == 1.0
    np.testing.assert_allclose(l2_distance(log_p, log_q), np.sqrt(2), rtol=1e-6)


def test_pinsker_total_variation_is_at_most_the_root_of_half_the_kl():
    log_p, log_q = random_log_probs(4, (200, 5)), random_log_probs(5, (200, 5))
    assert (total_variation(log_p, log_q) <= jnp.sqrt(jax.jit(kl)(log_p, log_q) / 2) + 1e-6).all()


@BOTH
def test_gradient_equals_finite_differences(distance):
    log_p, log_q = random_log_probs(6, (4,)), random_log_probs(7, (4,))
    q = np.exp(np.float64(log_q))

    def twin(x):
        difference = np.exp(x) - q
        if distance is total_variation:
            return float(np.abs(difference).sum() / 2)
        return float(np.sqrt((difference**2).sum()))

    expected = numerical_gradient(twin, np.asarray(log_p))
    np.testing.assert_allclose(jax.grad(distance)(log_p, log_q), expected, rtol=1e-4, atol=1e-6)


@BOTH
def test_gradient_is_finite_at_equality_and_at_minus_infinity(distance):
    same = jnp.log(jnp.array([0.25, 0.75]))
    value, gradient = jax.value_and_grad(distance)(same, same)
    assert value == 0.0
    assert np.isfinite(gradient).all()
    gradient = jax.grad(distance)(jnp.array([-jnp.inf, 0.0]), same)
    assert np.isfinite(gradient).all()


@BOTH
def test_nan_is_not_swallowed(distance):
    assert np.isnan(distance(jnp.array([jnp.nan, 0.0]), jnp.zeros(2)))


@BOTH
def test_refuses_shapes_that_would_broadcast(distance):
    with pytest.raises(AssertionError):
        distance(jnp.zeros((2, 3)), jnp.zeros((1, 3)))


@BOTH
def test_symmetric_vmapped_equals_solo_and_traces_once(distance):
    log_p, log_q = random_log_probs(8, (5, 4)), random_log_probs(9, (5, 4))
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(distance.__wrapped__, n=1))
    solo = jnp.stack([traced(a, b) for a, b in zip(log_p, log_q, strict=True)])
    np.testing.assert_allclose(jax.vmap(distance)(log_p, log_q), solo, rtol=1e-6)
    np.testing.assert_allclose(distance(log_q, log_p), solo, rtol=1e-6)
