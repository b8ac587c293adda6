"""The estimators against exact enumeration: every group of G samples of one prompt.

The policy is softmax(theta) over a few classes, so the gradient of the expected reward is known:
d E[r] / d theta = pi (r - E[r]).
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from rlrazor.losses.policy_gradient import policy_gradient
from rlrazor.ops.advantages import centred, standardised
from rlrazor.ops.logprobs import token_logprobs
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOSS = jax.jit(jax.value_and_grad(policy_gradient, has_aux=True))
THETA = np.array([0.4, -0.9, 1.1], np.float32)
PI = softmax(THETA.astype(np.float64))
BINARY = np.array([1.0, 1.0, 0.0], np.float32)
GRADED = np.array([2.0, -1.0, 0.5], np.float32)
REWARDS = pytest.mark.parametrize("rewards", [BINARY, GRADED], ids=["binary", "graded"])
GROUPS = pytest.mark.parametrize("G", [1, 2, 4])


def plain(rewards):
    return rewards


@functools.cache  # compiled once an estimator and group size
def gradient_of_groups(estimator):
    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, None, None))
    @jax.grad
    def gradient(theta, actions, rewards, knobs):  # f32[V], i32[G], f32[V], {}
        (G,) = actions.shape
        logprobs = token_logprobs(jnp.broadcast_to(theta, (G, len(theta))), actions)
        advantages = estimator(rewards[actions][None], **knobs)[0]
        return policy_gradient(logprobs[:, None], advantages, jnp.ones((G, 1), bool))[0]

    return gradient


def expected_gradient(estimator, rewards: np.ndarray, G: int, **knobs: float) -> np.ndarray:
    """Sum over all V^G groups of P(group) times the gradient jax gives for that group: f64[V]."""
    groups = np.array(list(itertools.product(range(len(THETA)), repeat=G)), np.int32)
    gradients = gradient_of_groups(estimator)(THETA, groups, rewards, knobs)
    return PI[groups].prod(-1) @ np.float64(gradients)


def exact_gradient(rewards):
    """Of the expected reward; checked against finite differences below."""
    return PI * (rewards - PI @ rewards)


@REWARDS
def test_exact_gradient_is_the_derivative_of_the_expected_reward(rewards):
    numerical = numerical_gradient(lambda x: float(softmax(x) @ rewards), THETA)
    np.testing.assert_allclose(exact_gradient(rewards), numerical, atol=1e-8)


@GROUPS
@REWARDS
def test_plain_reward_is_unbiased(rewards, G):
    """With r in {0, 1} this is 1-0 REINFORCE."""
    actual = expected_gradient(plain, rewards, G)
    np.testing.assert_allclose(actual, -exact_gradient(rewards), atol=1e-6)


def test_one_zero_reinforce_is_iterative_sft_scaled_by_the_success_rate():
    correct = BINARY == 1
    minus_log_correct = numerical_gradient(
        lambda x: -float(np.log(softmax(x)[correct].sum())), THETA
    )
    actual = expected_gradient(plain, BINARY, 2)
    np.testing.assert_allclose(actual, PI[correct].sum() * minus_log_correct, atol=1e-6)


@GROUPS
@REWARDS
def test_centring_by_the_groups_mean_shrinks_by_exactly_g_minus_one_over_g(rewards, G):
    actual = expected_gradient(centred, rewards, G)
    np.testing.assert_allclose(actual, -(G - 1) / G * exact_gradient(rewards), atol=1e-6)


@GROUPS
@REWARDS
@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_standardised_equals_the_enumerated_twin(rewards, G, epsilon):
    expected = np.zeros(len(THETA))
    for group in itertools.product(range(len(THETA)), repeat=G):
        r = [float(rewards[a]) for a in group]
        mean = sum(r) / G
        std = math.sqrt(sum((x - mean) ** 2 for x in r) / G)
        chance = math.prod(PI[a] for a in group)
        for a, x in zip(group, r, strict=True):
            score = np.eye(len(THETA))[a] - PI
            expected -= chance * (x - mean) / (std + epsilon) * score / G
    actual = expected_gradient(standardised, rewards, G, epsilon=epsilon)
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("G", [2, 4])
def test_standardising_binary_rewards_rescales_a_prompt_by_its_difficulty(G):
    """E over k ~ Binomial(G, p) successes of sqrt(k (G - k)) / (G p (1 - p))."""
    p = PI @ BINARY
    scale = sum(
        math.comb(G, k) * p**k * (1 - p) ** (G - k) * math.sqrt(k * (G - k)) for k in range(G + 1)
    ) / (G * p * (1 - p))
    actual = expected_gradient(standardised, BINARY, G, epsilon=0.0)
    np.testing.assert_allclose(actual, -scale * exact_gradient(BINARY), atol=1e-6)


def test_standardising_graded_rewards_turns_the_gradient():
    actual = expected_gradient(standardised, GRADED, 4, epsilon=0.0)
    exact = -exact_gradient(GRADED)
    cosine = actual @ exact / np.linalg.norm(actual) / np.linalg.norm(exact)
    assert 0.5 < cosine < 0.999


def test_value_and_gradient_equal_the_twin():
    rng = np.random.default_rng(0)
    logprobs, mask = -rng.exponential(size=(4, 3)).astype(np.float32), rng.random((4, 3)) < 0.6
    advantages = rng.normal(size=4).astype(np.float32)
    (value, metrics), gradient = LOSS(logprobs, advantages, mask)
    expected = loss_twins.policy_gradient(logprobs, advantages, mask)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    expected = numerical_gradient(
        lambda x: loss_twins.policy_gradient(x, advantages, mask), logprobs
    )
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert metrics["tokens"] == mask.sum()


def test_zero_advantage_asks_nothing_of_an_impossible_token():
    logprobs = jnp.array([[-jnp.inf], [-1.0]])
    (value, _), gradient = LOSS(logprobs, jnp.array([0.0, 2.0]), jnp.ones((2, 1), bool))
    assert value == 1.0
    np.testing.assert_array_equal(gradient, [[0.0], [-1.0]])


def test_all_rewards_equal_gives_no_update():
    for estimator, knobs in [(centred, {}), (standardised, {"epsilon": 1e-8})]:
        actual = expected_gradient(estimator, np.full(3, 0.1, np.float32), 3, **knobs)
        np.testing.assert_array_equal(actual, np.zeros(3))
