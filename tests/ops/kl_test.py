import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy

from rlrazor.ops import kl as module
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

kl = jax.jit(module.kl)

INF = np.inf


def random_log_probs(seed, shape):
    logits = np.random.default_rng(seed).normal(scale=2, size=shape)
    return log_softmax(logits, axis=-1).astype(np.float32)


def log(probs):
    with np.errstate(divide="ignore"):
        return jnp.array(np.log(np.array(probs, np.float64)), jnp.float32)


def test_equals_scipy_in_both_directions():
    log_p, log_q = random_log_probs(0, (6, 5)), random_log_probs(1, (6, 5))
    p, q = np.exp(log_p.astype(np.float64)), np.exp(log_q.astype(np.float64))
    forward, backward = kl(log_p, log_q), kl(log_q, log_p)
    np.testing.assert_allclose(forward, rel_entr(p, q).sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(forward, entropy(p, q, axis=-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(backward, entropy(q, p, axis=-1), rtol=1e-5, atol=1e-6)
    assert np.abs(forward - backward).min() > 1e-3  # the two directions are told apart


def test_equals_scipy_on_every_distribution_of_a_grid_zeros_included():
    grid = [np.array(c) / 4 for c in itertools.product(range(5), repeat=3) if sum(c) == 4]
    pairs = list(itertools.product(grid, grid))
    p, q = (np.stack(x) for x in zip(*pairs, strict=True))
    expected = rel_entr(p, q).sum(-1)
    assert np.isinf(expected).any()
    assert (expected == 0).sum() == len(grid)
    np.testing.assert_allclose(kl(log(p), log(q)), expected, rtol=1e-6, atol=1e-6)


def test_equals_enumerated_expectation_of_the_log_ratio_over_sequences():
    # Chain rule: two independent tokens, all 9 sequences weighted by their probability under p.
    log_p, log_q = random_log_probs(2, (2, 3)), random_log_probs(3, (2, 3))
    expected = 0.0
    for sequence in itertools.product(range(3), repeat=2):
        under_p = sum(float(log_p[t, v]) for t, v in enumerate(sequence))
        under_q = sum(float(log_q[t, v]) for t, v in enumerate(sequence))
        expected += np.exp(under_p) * (under_p - under_q)
    np.testing.assert_allclose(kl(log_p, log_q).sum(), expected, rtol=1e-5)


def test_direction_by_hand():
    sharp, flat = log([1.0, 0.0]), log([0.5, 0.5])
    np.testing.assert_allclose(kl(sharp, flat), np.log(2), rtol=1e-6)
    assert kl(flat, sharp) == INF


def test_zero_of_a_distribution_to_itself_and_never_negative():
    log_p, log_q = random_log_probs(4, (50, 7)), random_log_probs(5, (50, 7))
    np.testing.assert_array_equal(kl(log_p, log_p), np.zeros(50))
    np.testing.assert_array_equal(kl(log([0.5, 0.0, 0.5]), log([0.5, 0.0, 0.5])), 0.0)
    assert (kl(log_p, log_q) > 0).all()


def test_tiny_p_where_q_is_zero_is_infinite_even_when_its_probability_underflows():
    log_p = jnp.array([0.0, -500.0])
    assert kl(log_p, jnp.array([0.0, -INF])) == INF


def test_gradients_equal_finite_differences_in_both_arguments():
    log_p, log_q = random_log_probs(6, (3, 4)), random_log_probs(7, (3, 4))

    def twin(a, b):
        return float(np.sum(np.exp(a) * (a - b)))

    by_p, by_q = jax.jit(jax.grad(lambda a, b: jnp.sum(kl(a, b)), argnums=(0, 1)))(log_p, log_q)
    expected_p = numerical_gradient(lambda a: twin(a, log_q.astype(np.float64)), log_p)
    expected_q = numerical_gradient(lambda b: twin(log_p.astype(np.float64), b), log_q)
    np.testing.assert_allclose(by_p, expected_p, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_q, expected_q, rtol=1e-4, atol=1e-6)


def test_gradients_are_finite_at_minus_infinity_in_either_and_both():
    #              regular  p = 0   q = 0   both
    log_p = jnp.array([-0.5, -INF, -1.5, -INF])
    log_q = jnp.array([-0.7, -0.9, -INF, -INF])
    value = kl(log_p, log_q)
    with jax.debug_nans(True):  # not even on the way
        by_p, by_q = jax.grad(module.kl, argnums=(0, 1))(log_p, log_q)
    assert value == INF
    p = np.exp(-0.5)
    np.testing.assert_allclose(by_p, [p * (-0.5 + 0.7) + p, 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(by_q, [-p, 0, 0, 0], rtol=1e-6)


def test_gradient_through_a_softmax_that_forbids_a_class_is_finite():
    allowed = jnp.array([True, True, False])

    def divergence(a, b):
        a, b = (jax.nn.log_softmax(jnp.where(allowed, x, -INF)) for x in (a, b))
        return kl(a, b)

    gradients = jax.grad(divergence, argnums=(0, 1))(jnp.array([0.0, 1, 2]), jnp.array([1.0, 0, 0]))
    assert np.isfinite(gradients).all()
    assert np.abs(gradients[0]).max() > 0.1


def test_nan_is_not_swallowed():
    assert np.isnan(kl(jnp.array([jnp.nan, jnp.nan]), log([0.5, 0.5])))
    assert np.isnan(kl(log([0.5, 0.5]), jnp.array([jnp.nan, jnp.nan])))


def test_refuses_shapes_that_would_broadcast():
    with pytest.raises(AssertionError):
        kl(jnp.zeros((2, 3)), jnp.zeros((1, 3)))


def test_permuting_classes_or_examples_and_vmap_and_one_trace():
    log_p, log_q = map(jnp.array, (random_log_probs(8, (5, 4)), random_log_probs(9, (5, 4))))
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(module.kl, n=1))
    solo = jnp.stack([traced(a, b) for a, b in zip(log_p, log_q, strict=True)])
    np.testing.assert_allclose(jax.vmap(kl)(log_p, log_q), solo, rtol=1e-6)
    np.testing.assert_allclose(kl(log_p[:, ::-1], log_q[:, ::-1]), solo, rtol=1e-5)
    np.testing.assert_allclose(kl(log_p[::-1], log_q[::-1]), solo[::-1], rtol=1e-6)
