import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from rlrazor.losses.dft import dft
from rlrazor.ops.logprobs import token_logprobs
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOSS = jax.jit(jax.value_and_grad(dft, has_aux=True))


def test_value_and_gradient_equal_the_twin_whose_weights_stay_put():
    rng = np.random.default_rng(0)
    logprobs, mask = -rng.exponential(size=(4, 3)).astype(np.float32), rng.random((4, 3)) < 0.6
    (value, metrics), gradient = LOSS(logprobs, mask)
    np.testing.assert_allclose(value, loss_twins.dft(logprobs, logprobs, mask), rtol=1e-5)
    expected = numerical_gradient(lambda x: loss_twins.dft(x, logprobs, mask), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert metrics["tokens"] == mask.sum()
    np.testing.assert_allclose(metrics["probability"], np.exp(logprobs)[mask].sum(), rtol=1e-6)


def test_gradient_is_that_of_minus_the_probability_itself():
    logits, label = np.array([0.2, -1.0, 0.7], np.float32), 1

    def loss(x):
        return dft(token_logprobs(x, jnp.array(label))[None, None], jnp.ones((1, 1), bool))[0]

    expected = numerical_gradient(lambda x: -float(softmax(x)[label]), logits)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(logits), expected, atol=1e-6)


def test_impossible_token_contributes_nothing():
    (value, metrics), gradient = LOSS(jnp.array([[-jnp.inf, 0.0]]), jnp.ones((1, 2), bool))
    assert value == 0.0
    assert metrics["tokens"] == 2
    assert metrics["probability"] == 1.0
    np.testing.assert_array_equal(gradient, [[0.0, -0.5]])
