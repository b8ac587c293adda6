import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.simpo import simpo
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@jax.jit
def value_and_gradients(chosen, chosen_mask, rejected, rejected_mask, beta=1.0, margin=1.0):
    def loss(y_w, y_l):
        return simpo(y_w, chosen_mask, y_l, rejected_mask, beta=beta, margin=margin)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(chosen, rejected)


def example():
    """Answers of two lengths; the last pair lacks its rejected answer and must not count."""
    rng = np.random.default_rng(0)
    chosen = -rng.exponential(size=(4, 3)).astype(np.float32)
    rejected = -rng.exponential(size=(4, 2)).astype(np.float32)
    chosen_mask = np.arange(3) < np.array([[3], [1], [2], [3]])
    rejected_mask = np.arange(2) < np.array([[1], [2], [2], [0]])
    return chosen, chosen_mask, rejected, rejected_mask


@pytest.mark.parametrize(("beta", "margin"), [(1.0, 1.0), (2.5, 0.0), (0.3, -1.5)])
def test_value_and_gradients_equal_the_twin(beta, margin):
    chosen, chosen_mask, rejected, rejected_mask = example()
    (value, metrics), (by_chosen, by_rejected) = value_and_gradients(*example(), beta, margin)
    twin = functools.partial(loss_twins.simpo, beta=beta, margin=margin)
    np.testing.assert_allclose(value, twin(*example()), rtol=1e-6)
    np.testing.assert_allclose(
        by_chosen,
        numerical_gradient(lambda x: twin(x, chosen_mask, rejected, rejected_mask), chosen),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        by_rejected,
        numerical_gradient(lambda x: twin(chosen, chosen_mask, x, rejected_mask), rejected),
        atol=1e-6,
    )
    assert metrics["pairs"] == 3


def pair(log_pi_w, log_pi_l):
    mask = np.ones((1, 1), bool)
    return np.full((1, 1), log_pi_w, np.float32), mask, np.full((1, 1), log_pi_l, np.float32), mask


def test_by_hand_as_the_paper_prints_it():
    (value, metrics), (by_chosen, _) = value_and_gradients(*pair(-1.0, -3.0))
    np.testing.assert_allclose(value, 0.31326169, rtol=1e-6)  # -log sigmoid(2 - 1)
    np.testing.assert_allclose(by_chosen, [[-0.26894142]], rtol=1e-6)  # -sigmoid(-1)
    assert metrics["preferred"] == 1


@pytest.mark.parametrize(("log_ratio", "preferred"), [(0.5, 1), (0.0, 0), (-0.5, 0)])
def test_preferred_counts_the_better_likelihood_whatever_the_margin(log_ratio, preferred):
    (_, metrics), _ = value_and_gradients(*pair(log_ratio - 2.0, -2.0))
    assert metrics["preferred"] == preferred


def test_beta_and_margin_are_alive():
    (plain, _), plain_gradients = value_and_gradients(*example())
    for knobs in [(2.0, 1.0), (1.0, 2.0)]:
        (value, _), gradients = value_and_gradients(*example(), *knobs)
        assert abs(value - plain) > 1e-2
        assert np.abs(gradients[0] - plain_gradients[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("log_ratio", "value", "slope"),
    [(1e4, 0.0, 0.0), (-1e4, 1e4 + 1, -1.0), (np.inf, 0.0, 0.0), (-np.inf, np.inf, -1.0)],
)
def test_extreme_log_ratios_keep_gradients_finite(log_ratio, value, slope):
    logprobs = (0.0, -log_ratio) if log_ratio > 0 else (log_ratio, 0.0)
    (actual, _), gradients = value_and_gradients(*pair(*logprobs))
    np.testing.assert_allclose(actual, value, rtol=1e-6)
    np.testing.assert_allclose(gradients, [[[slope]], [[-slope]]], atol=1e-6)


def test_hyperparameters_have_no_defaults():
    with pytest.raises(TypeError, match=r"beta.*margin"):
        simpo(*map(jnp.array, example()))  # pyright: ignore[reportCallIssue]
