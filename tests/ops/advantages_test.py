import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.ops import advantages

pytestmark = pytest.mark.usefixtures("strict_dtypes")

centred = jax.jit(advantages.centred)
standardised = jax.jit(advantages.standardised)

ESTIMATORS = pytest.mark.parametrize(
    "estimator",
    [centred, jax.jit(functools.partial(advantages.standardised, epsilon=1e-6))],
    ids=["none", "std"],
)


def rewards(seed=0, shape=(4, 8)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_centred_equals_numpy():
    r = rewards()
    expected = r.astype(np.float64) - r.astype(np.float64).mean(1, keepdims=True)
    np.testing.assert_allclose(centred(jnp.array(r)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.5])
def test_standardised_equals_numpy(epsilon):
    r = rewards(1).astype(np.float64)
    expected = (r - r.mean(1, keepdims=True)) / (r.std(1, keepdims=True) + epsilon)
    actual = standardised(jnp.array(r, jnp.float32), epsilon=epsilon)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_standardised_by_hand_for_binary_rewards():
    # One success in four: mean 1/4, std sqrt(3)/4.
    actual = standardised(jnp.array([[1.0, 0.0, 0.0, 0.0]]), epsilon=0.0)
    np.testing.assert_allclose(actual, [[3**0.5, *[-(3**-0.5)] * 3]], rtol=1e-6)


def test_epsilon_is_alive():
    r = jnp.array(rewards())
    small, large = standardised(r, epsilon=1e-6), standardised(r, epsilon=1.0)
    assert (jnp.abs(large) < jnp.abs(small)).all()


@pytest.mark.parametrize("G", [1, 3, 7])
def test_equal_rewards_give_exactly_zero(G):
    # 0.1 is no binary fraction: a rounded mean would differ from it, and std would amplify that.
    r = np.full((2, G), 0.1, np.float32)
    gradient = jax.jit(jax.grad(lambda x, epsilon: jnp.sum(standardised(x, epsilon=epsilon))))
    np.testing.assert_array_equal(centred(r), np.zeros((2, G)))
    for epsilon in [0.0, 1e-8]:
        np.testing.assert_array_equal(standardised(r, epsilon=epsilon), np.zeros((2, G)))
        assert np.isfinite(gradient(r, epsilon)).all()


@ESTIMATORS
def test_groups_do_not_mix_and_sum_to_zero(estimator):
    r = rewards(2)
    together = estimator(jnp.array(r))
    np.testing.assert_allclose(together.sum(-1), np.zeros(4), atol=1e-5)
    r[1] += 100.0 * rewards(3, (8,))
    np.testing.assert_array_equal(estimator(jnp.array(r))[0], together[0])


@ESTIMATORS
def test_permuting_samples_permutes_advantages(estimator):
    r, order = jnp.array(rewards(4)), np.random.default_rng(5).permutation(8)
    np.testing.assert_allclose(estimator(r[:, order]), estimator(r)[:, order], rtol=1e-4, atol=1e-6)


@ESTIMATORS
def test_adding_a_constant_changes_nothing(estimator):
    r = jnp.array([[0.0, 1.0, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(estimator(r + 4.0), estimator(r), rtol=1e-6)


@ESTIMATORS
def test_nan_reward_shows(estimator):
    assert np.isnan(estimator(jnp.array([[1.0, jnp.nan, 0.0]]))).any()


@ESTIMATORS
def test_refuses_rewards_without_a_group_axis(estimator):
    with pytest.raises(AssertionError):
        estimator(jnp.ones(4))


@ESTIMATORS
def test_vmapped_equals_solo_and_traces_once(estimator):
    r = jnp.array(rewards(6, (3, 2, 4)))
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda x: estimator(x), n=1))
    solo = jnp.stack([traced(x) for x in r])
    np.testing.assert_allclose(jax.vmap(estimator)(r), solo, rtol=1e-5, atol=1e-6)
