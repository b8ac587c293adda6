import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from rlrazor.ops.kl_estimators import k1, k2, k3, kl_in_reward
from tests.oracles import loss_twins

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOG_P, LOG_Q = log_softmax(np.random.default_rng(0).normal(size=(2, 6)), axis=-1).astype(np.float32)
KL = loss_twins.kl(LOG_P, LOG_Q)


@pytest.mark.parametrize("estimator", [k1, k3])
def test_expectation_over_the_first_argument_is_the_divergence(estimator):
    values = np.float64(jax.jit(estimator)(LOG_P, LOG_Q))
    np.testing.assert_allclose(np.exp(np.float64(LOG_P)) @ values, KL, rtol=1e-5)


def test_k2_is_biased_but_not_to_second_order():
    values = np.float64(jax.jit(k2)(LOG_P, LOG_Q))
    assert abs(np.exp(np.float64(LOG_P)) @ values - KL) > 0.02
    near = log_softmax(np.float64(LOG_P) + 1e-2 * np.arange(6)).astype(np.float32)
    values = np.float64(jax.jit(k2)(LOG_P, near))
    np.testing.assert_allclose(
        np.exp(np.float64(LOG_P)) @ values, loss_twins.kl(LOG_P, near), rtol=2e-2
    )


def test_values_by_hand():
    """At q/p = 2: log p - log q = -log 2."""
    log_p, log_q = np.log(np.float32([0.25])), np.log(np.float32([0.5]))
    np.testing.assert_allclose(k1(log_p, log_q), [-np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(k2(log_p, log_q), [np.log(2) ** 2 / 2], rtol=1e-6)
    np.testing.assert_allclose(k3(log_p, log_q), [2 - 1 - np.log(2)], rtol=1e-6)


def test_k3_keeps_its_digits_near_zero():
    log_p = np.full(5, -3.0, np.float32)
    log_q = log_p + np.float32([0.0, 1e-3, -1e-3, 3e-3, -3e-3])
    d = np.float64(log_q) - log_p
    np.testing.assert_allclose(jax.jit(k3)(log_p, log_q), np.expm1(d) - d, rtol=1e-3, atol=1e-11)


def test_reward_loses_the_sum_over_the_kept_tokens_and_is_constant():
    rng = np.random.default_rng(1)
    logprobs, base = -rng.exponential(size=(2, 3, 4)).astype(np.float32)
    rewards, mask = rng.normal(size=3).astype(np.float32), np.arange(4) < [[4], [2], [0]]
    expected = [
        rewards[b] - 0.3 * sum(logprobs[b, t] - base[b, t] for t in range(4) if mask[b, t])
        for b in range(3)
    ]
    run = jax.jit(kl_in_reward)
    np.testing.assert_allclose(
        run(rewards, logprobs, base, mask, coefficient=0.3), expected, rtol=1e-5
    )
    dirty = [np.where(mask, x, np.float32(np.nan)) for x in (logprobs, base)]
    actual = run(rewards, *dirty, mask, coefficient=0.3)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    gradient = jax.grad(lambda x: kl_in_reward(rewards, x, base, mask, coefficient=0.3).sum())
    np.testing.assert_array_equal(jax.jit(gradient)(logprobs), np.zeros((3, 4)))


def test_refuses_other_shapes():
    with pytest.raises(AssertionError):
        k3(jnp.zeros((2, 3)), jnp.zeros(3))
