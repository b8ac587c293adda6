"""Against every answer of a tiny language, in which an answer that begins with 0 ends there."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.policy_gradient import policy_gradient
from rlrazor.losses.reinforce import reinforce
from rlrazor.ops.advantages import leave_one_out
from tests.oracles import loss_twins, tiny_sequences
from tests.oracles.finite_differences import numerical_gradient
from tests.oracles.tiny_sequences import ANSWERS, POLICY

pytestmark = pytest.mark.usefixtures("strict_dtypes")

MASKS = np.stack([np.ones(9, bool), ANSWERS[:, 0] != 0], axis=1)  # bool[9, 2]
# The reward cannot depend on a token that is not there.
REWARDS = np.where(MASKS[:, 1], [0, 0, 0, 1, -2, 0.5, 3, 0, 1], 2.0).astype(np.float32)


def exact_gradient():
    return numerical_gradient(lambda x: float(tiny_sequences.chances(x) @ REWARDS), POLICY)


def test_expected_gradient_is_that_of_minus_the_expected_reward():
    def losses_of_answer(theta, y):
        row, reward = tiny_sequences.logprobs(theta)[y][None], jnp.array(REWARDS)[y][None]
        return {"loss": reinforce(row, reward, jnp.array(MASKS)[y][None])[0]}

    _, gradients = tiny_sequences.of_every_answer(losses_of_answer)["loss"]
    np.testing.assert_allclose(tiny_sequences.expected(gradients), -exact_gradient(), atol=1e-6)


def test_leave_one_out_keeps_it_exact_and_a_mean_over_tokens_does_not():
    """Over all 81 pairs of answers to one prompt."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    @jax.jacrev
    def gradients_of_pair(theta, pair):
        rows, mask = tiny_sequences.logprobs(theta)[pair], jnp.array(MASKS)[pair]
        advantages = leave_one_out(jnp.array(REWARDS)[pair][None])[0]
        return reinforce(rows, advantages, mask)[0], policy_gradient(rows, advantages, mask)[0]

    pairs = np.array(list(itertools.product(range(9), repeat=2)))
    chance = tiny_sequences.chances(POLICY)[pairs].prod(-1)
    of_sums, of_means = (chance @ np.float64(g) for g in gradients_of_pair(POLICY, pairs))
    exact = -exact_gradient()
    np.testing.assert_allclose(of_sums, exact, atol=1e-6)
    somewhere = np.abs(exact) > 1e-3
    shrunk_by = of_means[somewhere] / exact[somewhere]
    assert np.ptp(shrunk_by) > 0.05  # so it is another direction, too


def test_value_and_gradient_equal_the_twin():
    rng = np.random.default_rng(0)
    logprobs = -rng.exponential(size=(4, 3)).astype(np.float32)
    advantages, mask = rng.normal(size=4).astype(np.float32), np.arange(3) < [[3], [1], [0], [2]]
    (value, metrics), gradient = jax.jit(jax.value_and_grad(reinforce, has_aux=True))(
        logprobs, advantages, mask
    )
    np.testing.assert_allclose(value, loss_twins.reinforce(logprobs, advantages, mask), rtol=1e-5)
    expected = numerical_gradient(lambda x: loss_twins.reinforce(x, advantages, mask), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert (metrics["sequences"], metrics["tokens"]) == (3, 6)


def test_zero_advantage_asks_nothing_of_an_impossible_token():
    advantages, mask = jnp.array([0.0, 2.0]), jnp.ones((2, 1), bool)
    loss = jax.jit(jax.value_and_grad(lambda x: reinforce(x, advantages, mask)[0]))
    value, gradient = loss(np.float32([[-np.inf], [-1.0]]))
    assert value == 1.0
    np.testing.assert_array_equal(gradient, [[0.0], [-1.0]])
