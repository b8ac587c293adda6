"""Weighted likelihood and its two rules, beside loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from rlrazor.losses.dft import dft
from rlrazor.losses.weighted_nll import entropy_gates, tempered_weights, weighted_nll
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOSS = jax.jit(jax.value_and_grad(weighted_nll, has_aux=True))


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    logprobs = -rng.exponential(size=(4, 3)).astype(np.float32)
    return logprobs, rng.random((4, 3)).astype(np.float32), rng.random((4, 3)) < 0.6


def test_value_and_gradient_equal_the_twins():
    logprobs, weights, mask = arrays()
    (value, metrics), gradient = LOSS(logprobs, weights, mask)
    np.testing.assert_allclose(value, loss_twins.weighted_nll(logprobs, weights, mask), rtol=1e-5)
    twin = numerical_gradient(lambda x: loss_twins.weighted_nll(x, weights, mask), logprobs)
    np.testing.assert_allclose(gradient, twin, atol=1e-6)
    np.testing.assert_allclose(metrics["weight"], weights[mask].sum(), rtol=1e-6)
    assert metrics["tokens"] == mask.sum()


def test_no_gradient_flows_into_the_weights():
    logprobs, weights, mask = arrays()
    gradient = jax.jit(jax.grad(lambda w: weighted_nll(logprobs, w, mask)[0]))(weights)
    assert not np.any(gradient)


def test_a_token_without_weight_may_be_impossible():
    (value, _), gradient = LOSS(
        jnp.array([[-jnp.inf, -1.0]]), jnp.array([[0.0, 0.5]]), jnp.ones((1, 2), bool)
    )
    np.testing.assert_allclose(value, 0.25)
    np.testing.assert_allclose(gradient, [[0.0, -0.25]])


@pytest.mark.parametrize("most_likely", [2, 3, 20])
def test_gates_are_the_entropy_of_the_likeliest(most_likely):
    logits = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32) * 3
    log_policy = log_softmax(logits, axis=-1)
    found = jax.jit(functools.partial(entropy_gates, most_likely=most_likely))(log_policy)
    twin = [loss_twins.entropy_gate(row, min(most_likely, 7)) for row in log_policy]
    np.testing.assert_allclose(found, twin, rtol=1e-5)


def test_gates_go_from_0_to_1():
    sure = jnp.log(jnp.array([1.0, 0.0, 0.0, 0.0]))
    even = jnp.full(4, -jnp.log(jnp.float32(4.0)))
    gates = entropy_gates(jnp.stack([sure, even]), most_likely=20)
    np.testing.assert_allclose(gates, [0.0, 1.0], atol=1e-6)
    with pytest.raises(ValueError, match="most_likely=1 must be at least 2"):
        entropy_gates(even, most_likely=1)


@pytest.mark.parametrize("least", [0.01, 0.5])
def test_tempered_weights_equal_the_twins(least):
    logprobs, _, mask = arrays(2)
    mask[3] = False  # a row of padding has no say in the median
    logprobs = np.where(mask, logprobs, np.nan).astype(np.float32)
    found = jax.jit(functools.partial(tempered_weights, least=least))(logprobs, mask)
    np.testing.assert_allclose(found, loss_twins.tempered_weights(logprobs, mask, least), rtol=1e-5)


def test_at_a_median_loss_of_one_nat_they_are_those_of_dft():
    logprobs, mask = jnp.array([[-0.5, -1.5], [-1.0, -1.0]]), jnp.ones((2, 2), bool)
    weights = tempered_weights(logprobs, mask, least=0.0)
    np.testing.assert_allclose(weighted_nll(logprobs, weights, mask)[0], dft(logprobs, mask)[0])


def test_what_is_known_already_weighs_one():
    weights = tempered_weights(jnp.zeros((2, 2)), jnp.ones((2, 2), bool), least=0.01)
    np.testing.assert_array_equal(weights, 1.0)
