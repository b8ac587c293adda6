import functools

import jax
import numpy as np
import pytest

from rlrazor.losses.nll import nll
from rlrazor.losses.psft import psft
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@jax.jit
def compiled(logprobs, previous, mask, high):
    return jax.value_and_grad(lambda x: psft(x, previous, mask, clip_high=high), has_aux=True)(
        logprobs
    )


def run(logprobs, previous, mask, high=0.28):
    return compiled(logprobs, previous, mask, high)


def example():
    rng = np.random.default_rng(0)
    logprobs = -rng.exponential(size=(4, 3)).astype(np.float32)
    previous = logprobs + rng.uniform(-0.6, 0.6, size=(4, 3)).astype(np.float32)
    return logprobs, previous, np.arange(3) < np.array([[3], [1], [2], [3]])


@pytest.mark.parametrize("low", [0.0, 0.2, 0.9])
def test_value_and_gradient_equal_the_twin_whatever_its_lower_bound(low):
    logprobs, previous, mask = example()
    twin = functools.partial(loss_twins.psft, low=low, high=0.28)
    (value, metrics), gradient = run(logprobs, previous, mask)
    np.testing.assert_allclose(value, twin(logprobs, previous, mask), rtol=1e-5)
    expected = numerical_gradient(lambda x: twin(x, previous, mask), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert metrics["tokens"] == 9
    assert metrics["clipped"] == np.sum(mask & (gradient == 0)) > 0


def test_at_ratio_one_the_gradient_is_that_of_likelihood():
    logprobs, _, mask = example()
    _, gradient = run(logprobs, logprobs, mask)
    expected = jax.jit(jax.grad(lambda x: nll(x, mask)[0]))(logprobs)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_clip_is_alive():
    (plain, _), _ = run(*example())
    (value, _), _ = run(*example(), high=0.05)
    assert abs(value - plain) > 1e-3
