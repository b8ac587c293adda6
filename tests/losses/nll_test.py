import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.nll import nll
from rlrazor.ops.logprobs import token_logprobs
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOSS = jax.jit(jax.value_and_grad(nll, has_aux=True))
LOGITS = np.array([0.3, -1.2, 0.8, 0.1], np.float32)


def loss_of_label(logits, label):
    return nll(token_logprobs(logits, label)[None, None], jnp.ones((1, 1), bool))[0]


GRADIENT_OF_LABEL = jax.jit(jax.grad(loss_of_label))


def test_value_and_gradient_equal_the_twin():
    rng = np.random.default_rng(0)
    logprobs, mask = -rng.exponential(size=(4, 3)).astype(np.float32), rng.random((4, 3)) < 0.6
    (value, metrics), gradient = LOSS(logprobs, mask)
    np.testing.assert_allclose(value, loss_twins.nll(logprobs, mask), rtol=1e-6)
    expected = numerical_gradient(lambda x: loss_twins.nll(x, mask), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert metrics["tokens"] == mask.sum()


def test_impossible_label_is_infinite_with_finite_gradient():
    logprobs = jnp.array([[-jnp.inf], [-1.0]])
    (value, _), gradient = LOSS(logprobs, jnp.ones((2, 1), bool))
    assert value == jnp.inf
    np.testing.assert_array_equal(gradient, [[-0.5], [-0.5]])


@pytest.mark.parametrize(
    "correct", [c for n in range(1, 5) for c in itertools.combinations(range(4), n)]
)
def test_fresh_correct_samples_descend_minus_log_probability_of_being_correct(correct):
    """Iterative SFT: E over y ~ pi(. | correct) of grad -log pi(y) = grad -log pi(correct)."""
    correct = np.array(correct)
    per_label = np.stack([GRADIENT_OF_LABEL(LOGITS, label) for label in correct])
    pi = np.exp(LOGITS.astype(np.float64))
    conditional = pi[correct] / pi[correct].sum()

    def minus_log_correct(x):
        return -float(np.log(np.exp(x[correct]).sum() / np.exp(x).sum()))

    expected = numerical_gradient(minus_log_correct, LOGITS)
    np.testing.assert_allclose(conditional @ np.float64(per_label), expected, atol=1e-6)
