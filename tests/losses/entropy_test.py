import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from rlrazor.losses.entropy import entropy_bonus
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOSS = jax.jit(jax.value_and_grad(entropy_bonus, has_aux=True))


def example():
    logits = np.random.default_rng(0).normal(size=(3, 2, 4))
    return log_softmax(logits, axis=-1).astype(np.float32), np.array([[1, 1], [1, 0], [0, 1]], bool)


def test_value_and_gradient_equal_the_twin():
    log_policy, mask = example()
    (value, metrics), gradient = LOSS(log_policy, mask)
    np.testing.assert_allclose(value, loss_twins.entropy_bonus(log_policy, mask), rtol=1e-5)
    expected = numerical_gradient(lambda x: loss_twins.entropy_bonus(x, mask), log_policy)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert metrics["tokens"] == 4
    exact = entropy(np.exp(log_policy[mask]), axis=-1).sum()
    np.testing.assert_allclose(metrics["entropy_nats"], exact, rtol=1e-5)


def test_minimising_it_flattens_the_policy():
    logits, mask = np.float32([[[2.0, 0.0, -1.0]]]), np.ones((1, 1), bool)
    loss = jax.jit(jax.grad(lambda x: entropy_bonus(jax.nn.log_softmax(x), mask)[0]))
    expected = numerical_gradient(lambda x: -float(entropy(softmax(x[0, 0]))), logits)
    np.testing.assert_allclose(loss(logits), expected, atol=1e-6)
    assert loss(logits)[0, 0].argmax() == 0


def test_uniform_and_certain():
    with np.errstate(divide="ignore"):
        log_policy = np.log(np.float32([[[0.25] * 4, [1.0, 0.0, 0.0, 0.0]]]))
    (value, metrics), gradient = LOSS(log_policy, np.ones((1, 2), bool))
    np.testing.assert_allclose(value, -np.log(4) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["entropy_nats"], np.log(4), rtol=1e-6)
    assert np.isfinite(gradient).all()
