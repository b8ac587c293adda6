import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from rlrazor.losses.nll import nll
from rlrazor.losses.soft_cross_entropy import soft_cross_entropy
from rlrazor.ops.logprobs import token_logprobs
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOSS = jax.jit(jax.value_and_grad(soft_cross_entropy, has_aux=True))


def example():
    rng = np.random.default_rng(0)
    log_policy = log_softmax(rng.normal(size=(3, 2, 4)), axis=-1).astype(np.float32)
    target = softmax(rng.normal(size=(3, 2, 4)), axis=-1).astype(np.float32)
    target[0, 0] = [0.0, 0.5, 0.0, 0.5]
    return log_policy, target, rng.random((3, 2)) < 0.7


def test_value_and_gradient_equal_the_twin():
    log_policy, target, mask = example()
    (value, metrics), gradient = LOSS(log_policy, target, mask)
    expected = loss_twins.soft_cross_entropy(log_policy, target, mask)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    expected = numerical_gradient(
        lambda x: loss_twins.soft_cross_entropy(x, target, mask), log_policy
    )
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert metrics["tokens"] == mask.sum()


def test_is_the_enumerated_expectation_of_nll_over_sampled_labels():
    """Oracle SFT: sampled labels and soft targets differ in noise only, value and gradient."""
    rng = np.random.default_rng(1)
    B, V = 2, 3
    logits = rng.normal(size=(B, 1, V)).astype(np.float32)
    target = softmax(rng.normal(size=(B, 1, V)), axis=-1).astype(np.float32)
    target[0, 0] = [0.0, 0.25, 0.75]
    mask = np.ones((B, 1), bool)

    def sampled(x, labels):
        return nll(token_logprobs(x, labels), mask)[0]

    def soft(x):
        return soft_cross_entropy(jax.nn.log_softmax(x), target, mask)[0]

    every = np.array(list(itertools.product(range(V), repeat=B)), np.int32)[..., None]
    chance = np.array([target[0, 0, a] * target[1, 0, b] for a, b in every[..., 0]], np.float64)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(sampled), in_axes=(None, 0)))(
        logits, every
    )
    value, gradient = jax.jit(jax.value_and_grad(soft))(logits)
    np.testing.assert_allclose(value, chance @ np.float64(values), rtol=1e-6)
    expected = np.tensordot(chance, np.float64(gradients), axes=1)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_is_the_targets_entropy_at_its_minimum():
    _, target, _ = example()
    with np.errstate(divide="ignore"):
        log_policy = np.log(target)
    (value, _), _ = LOSS(log_policy, target, np.ones((3, 2), bool))
    np.testing.assert_allclose(value, entropy(target, axis=-1).mean(), rtol=1e-6)


def test_impossible_class_counts_only_where_the_target_wants_it():
    log_policy = jnp.array([[[-jnp.inf, 0.0]]])
    mask = jnp.ones((1, 1), bool)
    (value, _), gradient = LOSS(log_policy, jnp.array([[[0.0, 1.0]]]), mask)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, [[[0.0, -1.0]]])
    (value, _), gradient = LOSS(log_policy, jnp.array([[[0.25, 0.75]]]), mask)
    assert value == jnp.inf
    np.testing.assert_array_equal(gradient, [[[-0.25, -0.75]]])


def test_nan_target_shows():
    (value, _), _ = LOSS(jnp.zeros((1, 1, 2)), jnp.full((1, 1, 2), jnp.nan), jnp.ones((1, 1), bool))
    assert jnp.isnan(value)
