import functools

import jax
import numpy as np
import pytest

from rlrazor.losses.gspo import gspo
from rlrazor.losses.gspo_token import gspo_token
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@jax.jit
def compiled(logprobs, behaviour, advantages, mask, low, high):
    def loss(x):
        return gspo_token(x, behaviour, advantages, mask, clip_low=low, clip_high=high)

    return jax.value_and_grad(loss, has_aux=True)(logprobs)


def run(logprobs, behaviour, advantages, mask, low=0.1, high=0.2):
    return compiled(logprobs, behaviour, advantages, mask, low, high)


def example():
    rng = np.random.default_rng(0)
    mask = np.arange(3) < np.array([[3], [1], [2], [3], [0]])
    logprobs = -rng.exponential(size=mask.shape).astype(np.float32)
    shift = np.float32([[-0.5], [0.5], [0.0], [0.5], [0.0]])
    behaviour = logprobs + shift + rng.uniform(-0.05, 0.05, size=mask.shape).astype(np.float32)
    signs = np.float32([[1], [-1], [1], [1], [1]])
    advantages = signs * rng.uniform(0.1, 2, size=mask.shape).astype(np.float32)
    return logprobs, behaviour, advantages, mask


def test_value_and_gradient_equal_the_twin_whose_stopped_parts_stay_put():
    logprobs, *constants = example()
    twin = functools.partial(loss_twins.gspo_token, low=0.1, high=0.2)
    (value, metrics), gradient = run(logprobs, *constants)
    np.testing.assert_allclose(value, twin(logprobs, logprobs, *constants), rtol=1e-5)
    expected = numerical_gradient(lambda x: twin(x, logprobs, *constants), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert metrics["tokens"] == 9
    assert metrics["clipped_high"] > 0
    assert metrics["clipped_low"] > 0


def test_with_one_advantage_an_answer_it_is_gspo():
    logprobs, behaviour, advantages, mask = example()
    advantages = advantages[:, 0]
    (value, _), gradient = run(logprobs, behaviour, np.repeat(advantages[:, None], 3, axis=1), mask)
    whole = functools.partial(gspo, clip_low=0.1, clip_high=0.2)
    (expected, _), slope = jax.jit(jax.value_and_grad(whole, has_aux=True))(
        logprobs, behaviour, advantages, mask
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)


def test_every_knob_is_alive():
    (plain, _), _ = run(*example())
    for knobs in [{"low": 0.3}, {"high": 0.5}]:
        (value, _), _ = run(*example(), **knobs)
        assert abs(value - plain) > 1e-3
