import functools

import jax
import numpy as np
import pytest

from rlrazor.losses.ppo_clip import ppo_clip
from rlrazor.losses.ppo_clip_fallback import ppo_clip_fallback
from rlrazor.ops.aggregate import token_mean
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@jax.jit
def compiled(logprobs, behaviour, advantages, mask, low, high, above):
    def loss(x):
        knobs = {"clip_low": low, "clip_high": high, "fallback_above": above}
        return ppo_clip_fallback(x, behaviour, advantages, mask, aggregate=token_mean, **knobs)

    return jax.value_and_grad(loss, has_aux=True)(logprobs)


def run(logprobs, behaviour, advantages, mask, low=0.1, high=0.2, above=10.0):
    return compiled(logprobs, behaviour, advantages, mask, low, high, above)


def example():
    rng = np.random.default_rng(0)
    logprobs = -rng.exponential(size=(4, 3)).astype(np.float32)
    behaviour = logprobs + rng.uniform(-4, 2, size=(4, 3)).astype(np.float32)
    advantages = rng.normal(size=(4, 3)).astype(np.float32)
    return logprobs, behaviour, advantages, np.arange(3) < np.array([[3], [1], [2], [3]])


def test_value_and_gradient_equal_the_twin():
    logprobs, *constants = example()
    twin = functools.partial(loss_twins.ppo_clip_fallback, low=0.1, high=0.2, above=10.0)
    (value, metrics), gradient = run(logprobs, *constants)
    np.testing.assert_allclose(value, twin(logprobs, *constants), rtol=1e-5)
    expected = numerical_gradient(lambda x: twin(x, *constants), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    behaviour, advantages, mask = constants
    falls_back = mask & (logprobs - behaviour > np.log(10))
    assert metrics["fallbacks"] == falls_back.sum()
    assert (falls_back & (advantages < 0)).any()
    assert (falls_back & (advantages > 0)).any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [(9.0, -1.0, 9.0, 9.0), (11.0, -1.0, 1.2, 0.0), (11.0, 1.0, -1.2, 0.0)],
)
def test_by_hand_around_the_threshold(ratio, advantage, value, slope):
    arrays = (np.float32([[x]]) for x in (np.log(ratio), 0.0, advantage))
    (actual, _), gradient = run(*arrays, np.ones((1, 1), bool))
    np.testing.assert_allclose(actual, value, rtol=1e-5)
    np.testing.assert_allclose(gradient, [[slope]], rtol=1e-5)


def test_without_a_threshold_it_is_ppo_clip():
    (value, _), gradient = run(*example(), above=np.inf)
    logprobs, *constants = example()
    plain = functools.partial(ppo_clip, clip_low=0.1, clip_high=0.2, aggregate=token_mean)
    (expected, _), slope = jax.jit(jax.value_and_grad(plain, has_aux=True))(logprobs, *constants)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


def test_every_knob_is_alive():
    (plain, _), _ = run(*example())
    for knobs in [{"low": 0.5}, {"high": 0.6}, {"above": 3.0}]:
        (value, _), _ = run(*example(), **knobs)
        assert abs(value - plain) > 1e-3
