import functools

import jax
import numpy as np
import pytest

from rlrazor.losses.gspo import gspo
from rlrazor.losses.policy_gradient import policy_gradient
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@jax.jit
def compiled(logprobs, behaviour, advantages, mask, low, high):
    def loss(x):
        return gspo(x, behaviour, advantages, mask, clip_low=low, clip_high=high)

    return jax.value_and_grad(loss, has_aux=True)(logprobs)


def run(logprobs, behaviour, advantages, mask, low=0.1, high=0.2):
    return compiled(logprobs, behaviour, advantages, mask, low, high)


def example():
    """Geometric means far below, far above and between the bounds; the last row is no answer."""
    rng = np.random.default_rng(0)
    mask = np.arange(3) < np.array([[3], [1], [2], [3], [0]])
    logprobs = -rng.exponential(size=mask.shape).astype(np.float32)
    shift = np.float32([[-0.5], [0.5], [0.0], [0.5], [0.0]])
    behaviour = logprobs + shift + rng.uniform(-0.05, 0.05, size=mask.shape).astype(np.float32)
    return logprobs, behaviour, np.float32([2.0, -1.0, 0.5, 1.5, 7.0]), mask


def test_value_and_gradient_equal_the_twin():
    logprobs, *constants = example()
    twin = functools.partial(loss_twins.gspo, low=0.1, high=0.2)
    (value, metrics), gradient = run(logprobs, *constants)
    np.testing.assert_allclose(value, twin(logprobs, *constants), rtol=1e-5)
    expected = numerical_gradient(lambda x: twin(x, *constants), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert (metrics["sequences"], metrics["clipped_high"], metrics["clipped_low"]) == (4, 1, 1)


def test_an_answer_is_clipped_whole_and_by_its_geometric_mean():
    """Token ratios 4 and 1/4 cancel: nothing is clipped, and both tokens share the gradient."""
    logprobs, mask = np.log(np.float32([[4.0, 0.25]])), np.ones((1, 2), bool)
    (value, _), gradient = run(logprobs, np.zeros((1, 2), np.float32), np.float32([1.0]), mask)
    np.testing.assert_allclose(value, -1.0, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, -0.5]], rtol=1e-6)
    (value, _), gradient = run(logprobs + 0.5, np.zeros_like(logprobs), np.float32([1.0]), mask)
    np.testing.assert_allclose(value, -1.2, rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


def test_at_ratio_one_and_equal_lengths_the_gradient_is_the_policy_gradients():
    logprobs, _, advantages, mask = example()
    mask = np.ones_like(mask)
    _, gradient = run(logprobs, logprobs, advantages, mask)
    expected = jax.jit(jax.grad(lambda x: policy_gradient(x, advantages, mask)[0]))(logprobs)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_every_knob_is_alive():
    (plain, _), _ = run(*example())
    for knobs in [{"low": 0.3}, {"high": 0.5}]:
        (value, _), _ = run(*example(), **knobs)
        assert abs(value - plain) > 1e-3
