import functools

import jax
import numpy as np
import pytest

from rlrazor.losses.value_loss import value_loss
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@jax.jit
def compiled(values, behaviour_values, targets, mask, clip):
    def loss(x):
        return value_loss(x, behaviour_values, targets, mask, clip=clip)

    return jax.value_and_grad(loss, has_aux=True)(values)


def run(values, behaviour_values, targets, mask, clip=0.1):
    return compiled(values, behaviour_values, targets, mask, clip)


def example():
    rng = np.random.default_rng(0)
    targets, old = rng.normal(size=(2, 4, 3)).astype(np.float32)
    values = old + rng.uniform(-0.3, 0.3, size=(4, 3)).astype(np.float32)
    return values, old, targets, np.arange(3) < np.array([[3], [1], [2], [3]])


@pytest.mark.parametrize("clip", [0.1, 1e9])
def test_value_and_gradient_equal_the_twin(clip):
    values, *constants = example()
    twin = functools.partial(loss_twins.value_loss, clip=clip)
    (value, metrics), gradient = run(values, *constants, clip)
    np.testing.assert_allclose(value, twin(values, *constants), rtol=1e-5)
    expected = numerical_gradient(lambda x: twin(x, *constants), values)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    _, targets, mask = constants
    assert metrics["turns"] == 9
    error = np.square(values - targets)[mask].sum()
    np.testing.assert_allclose(metrics["squared_error"], error, rtol=1e-5)
    assert metrics["clipped"] == np.sum(mask & (gradient == 0))
    assert (metrics["clipped"] > 0) == (clip == 0.1)


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [
        (0.0, 1.0, 0.5, -1.0),  # has not moved
        (0.05, 1.0, 0.45125, -0.95),
        (0.5, 1.0, 0.405, 0.0),  # has moved towards the target, by more than 0.1
        (-0.5, 1.0, 1.125, -1.5),  # away from it
        (0.5, 0.1, 0.08, 0.4),  # past it
    ],
)
def test_by_hand_from_zero(value, target, loss, slope):
    arrays = (np.float32([[x]]) for x in (value, 0.0, target))
    (actual, _), gradient = run(*arrays, np.ones((1, 1), bool))
    np.testing.assert_allclose(actual, loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[slope]], rtol=1e-6)


def test_infinite_clip_is_squared_error():
    values, old, targets, mask = example()
    (value, _), gradient = run(values, old, targets, mask, np.inf)
    np.testing.assert_allclose(value, np.square(values - targets)[mask].mean() / 2, rtol=1e-5)
    np.testing.assert_allclose(gradient, np.where(mask, values - targets, 0) / 9, rtol=1e-5)
