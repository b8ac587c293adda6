"""What each estimator's gradient is in expectation, over every answer of a tiny language."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.kl_estimate import kl_k2, kl_k3, kl_k3_weighted
from rlrazor.losses.kl_penalty import kl_penalty
from rlrazor.losses.reinforce import reinforce
from rlrazor.ops import kl_estimators
from rlrazor.ops.aggregate import scaled_sum, sequence_mean, token_mean
from tests.oracles import loss_twins, tiny_sequences
from tests.oracles.finite_differences import numerical_gradient
from tests.oracles.tiny_sequences import BASE, BEHAVIOUR, FULL, POLICY, expected

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SUM = functools.partial(scaled_sum, length=1.0)
CONSTANTS = [tiny_sequences.logprobs(jnp.array(theta)) for theta in (BASE, BEHAVIOUR)]


def whole_gradient():
    return numerical_gradient(lambda x: tiny_sequences.kl(x, BASE), POLICY)


def per_token_gradient(prefixes=POLICY):
    return numerical_gradient(lambda x: tiny_sequences.kl_per_token(x, BASE, prefixes), POLICY)


def other_divergence_gradient():
    """Of KL(base || policy), at the prefixes of the policy."""
    return numerical_gradient(lambda x: tiny_sequences.kl_per_token(BASE, x, POLICY), POLICY)


def losses_of_answer(theta, y):
    """Summed over the tokens; `whole` has one position an answer, which holds log pi(y)."""
    row, base, behaviour = (x[y][None] for x in (tiny_sequences.logprobs(theta), *CONSTANTS))
    tables, base_tables = (tiny_sequences.log_tables(x)[y][None] for x in (theta, jnp.array(BASE)))
    whole = (row.sum()[None, None], base.sum()[None, None], FULL[:, :1])
    reward = kl_estimators.kl_in_reward(jnp.zeros(1), row, base, FULL, coefficient=1.0)
    own = jax.lax.stop_gradient(row)
    return {
        "k1_reward": reinforce(row, reward, FULL)[0],
        "k1_loss": kl_estimators.k1(row, base).sum(),
        "k2": kl_k2(row, base, FULL, aggregate=SUM)[0],
        "k2_whole": kl_k2(*whole, aggregate=SUM)[0],
        "exact": 2.0 * kl_penalty(tables, base_tables, FULL)[0],  # it is a mean over two tokens
        "k3": kl_k3(row, base, FULL, aggregate=SUM)[0],
        "k3_weighted": kl_k3_weighted(row, own, base, FULL, aggregate=SUM)[0],
        "k3_off_policy": kl_k3_weighted(row, behaviour, base, FULL, aggregate=SUM)[0],
    }


@functools.cache
def every_answer():
    with jax.numpy_dtype_promotion("strict"):
        return tiny_sequences.of_every_answer(losses_of_answer)


def expected_value(name, sampler=POLICY):
    return expected(every_answer()[name][0], sampler)


def expected_gradient(name, sampler=POLICY):
    return expected(every_answer()[name][1], sampler)


def test_the_three_exact_gradients_are_three():
    whole, per_token, other = whole_gradient(), per_token_gradient(), other_divergence_gradient()
    assert min(np.abs(whole - per_token).max(), np.abs(per_token - other).max()) > 0.05


@pytest.mark.parametrize("name", ["k1_reward", "k2_whole"])
def test_these_have_the_gradient_of_the_whole_divergence(name):
    np.testing.assert_allclose(expected_gradient(name), whole_gradient(), atol=1e-6)


@pytest.mark.parametrize("name", ["k2", "exact", "k3_weighted"])
def test_these_have_it_token_by_token(name):
    np.testing.assert_allclose(expected_gradient(name), per_token_gradient(), atol=1e-6)


def test_k1_as_a_loss_has_none():
    np.testing.assert_allclose(expected_gradient("k1_loss"), np.zeros(12), atol=1e-6)


def test_k3_has_the_gradient_of_the_other_divergence():
    actual = expected_gradient("k3")
    np.testing.assert_allclose(actual, other_divergence_gradient(), atol=1e-6)
    assert np.abs(actual - per_token_gradient()).max() > 0.05


@pytest.mark.parametrize("name", ["k1_loss", "exact", "k3", "k3_weighted"])
def test_these_have_the_right_value(name):
    np.testing.assert_allclose(expected_value(name), tiny_sequences.kl(POLICY, BASE), rtol=1e-5)


def test_weighted_k3_has_the_right_value_and_gradient_whoever_sampled():
    value = expected_value("k3_off_policy", BEHAVIOUR)
    exact = tiny_sequences.kl_per_token(POLICY, BASE, BEHAVIOUR)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    gradient = expected_gradient("k3_off_policy", BEHAVIOUR)
    np.testing.assert_allclose(gradient, per_token_gradient(BEHAVIOUR), atol=2e-6)


def example():
    rng = np.random.default_rng(0)
    logprobs, base, behaviour = -rng.exponential(size=(3, 4, 3)).astype(np.float32)
    return logprobs, base, behaviour, np.arange(3) < np.array([[3], [1], [2], [0]])


@pytest.mark.parametrize("aggregate", [token_mean, sequence_mean])
def test_values_and_gradients_equal_the_twins(aggregate):
    logprobs, base, behaviour, mask = example()

    def losses(x):
        return {
            "k2": kl_k2(x, base, mask, aggregate=aggregate),
            "k3": kl_k3(x, base, mask, aggregate=aggregate),
            "weighted": kl_k3_weighted(x, behaviour, base, mask, aggregate=aggregate),
        }

    gradients = jax.jacrev(lambda x: {name: loss for name, (loss, _) in losses(x).items()})
    values, gradients = jax.jit(lambda x: (losses(x), gradients(x)))(logprobs)
    for name, estimator, sampled_by in [
        ("k2", loss_twins.k2, None),
        ("k3", loss_twins.k3, None),
        ("weighted", loss_twins.k3, behaviour),
    ]:
        twin = functools.partial(
            loss_twins.kl_estimate,
            estimator,
            base=base,
            mask=mask,
            aggregate=aggregate.__name__,
            behaviour=sampled_by,
        )
        value, metrics = values[name]
        np.testing.assert_allclose(value, twin(logprobs), rtol=2e-5)
        np.testing.assert_allclose(gradients[name], numerical_gradient(twin, logprobs), atol=1e-5)
        assert metrics["tokens"] == 6
        np.testing.assert_allclose(metrics["kl_nats"], (logprobs - base)[mask].sum(), rtol=1e-5)
