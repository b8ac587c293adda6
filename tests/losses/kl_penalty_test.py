import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from rlrazor.losses.kl_penalty import kl_penalty
from rlrazor.losses.soft_cross_entropy import soft_cross_entropy
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOSS = jax.jit(jax.value_and_grad(kl_penalty, argnums=(0, 1), has_aux=True))


def example(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 3, 2, 4))
    log_p, log_q = log_softmax(logits, axis=-1).astype(np.float32)
    return log_p, log_q, rng.random((3, 2)) < 0.7


def test_value_and_both_gradients_equal_the_twin():
    log_p, log_q, mask = example()
    (value, metrics), (by_p, by_q) = LOSS(log_p, log_q, mask)
    np.testing.assert_allclose(value, loss_twins.kl_penalty(log_p, log_q, mask), rtol=1e-5)
    expected_p = numerical_gradient(lambda x: loss_twins.kl_penalty(x, log_q, mask), log_p)
    expected_q = numerical_gradient(lambda x: loss_twins.kl_penalty(log_p, x, mask), log_q)
    np.testing.assert_allclose(by_p, expected_p, atol=1e-6)
    np.testing.assert_allclose(by_q, expected_q, atol=1e-6)
    assert metrics["tokens"] == mask.sum()


def test_first_argument_is_the_one_that_weights():
    log_p, log_q, _ = example()
    mask = np.ones((3, 2), bool)
    (forward, _), _ = LOSS(log_p, log_q, mask)
    (backward, _), _ = LOSS(log_q, log_p, mask)
    p, q = np.exp(np.float64(log_p)), np.exp(np.float64(log_q))
    np.testing.assert_allclose(forward, entropy(p, q, axis=-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(backward, entropy(q, p, axis=-1).mean(), rtol=1e-5)
    assert abs(forward - backward) > 1e-2


def test_anchoring_to_the_base_pulls_like_its_soft_labels():
    """grad KL(base || policy) = grad cross-entropy to the base: they differ by its entropy."""
    log_base, _, mask = example(1)
    logits = np.random.default_rng(2).normal(size=log_base.shape).astype(np.float32)

    def anchor(x):
        return kl_penalty(log_base, jax.nn.log_softmax(x), mask)[0]

    def soft(x):
        return soft_cross_entropy(jax.nn.log_softmax(x), np.exp(log_base), mask)[0]

    actual, expected = (jax.jit(jax.grad(loss))(logits) for loss in (anchor, soft))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_zero_with_zero_gradient_where_the_policy_is_the_base():
    log_p, _, mask = example()
    at_base = jax.jit(
        jax.value_and_grad(lambda x: kl_penalty(jax.nn.log_softmax(x), log_p, mask)[0])
    )
    value, gradient = at_base(log_p)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros_like(log_p), atol=1e-6)


def test_class_impossible_under_both_is_no_obstacle():
    log_p = jnp.array([[[-1.0, -2.0, -jnp.inf]]])
    log_q = jnp.array([[[-2.0, -1.0, -jnp.inf]]])
    (value, _), gradients = LOSS(log_p, log_q, jnp.ones((1, 1), bool))
    np.testing.assert_allclose(value, np.exp(-1) - np.exp(-2), rtol=1e-5)
    assert np.isfinite(gradients).all()
