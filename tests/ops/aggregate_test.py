import functools

import jax
import numpy as np
import pytest

from rlrazor.ops.aggregate import scaled_sum, sequence_mean, token_mean
from tests.oracles import loss_twins

pytestmark = pytest.mark.usefixtures("strict_dtypes")

X = np.float32([[1.0, 2.0, 6.0], [4.0, np.nan, np.nan], [np.nan] * 3])
MASK = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
EVERY = pytest.mark.parametrize(
    ("aggregate", "name", "by_hand", "weights"),
    [
        (token_mean, "token_mean", 13 / 4, [[1 / 4] * 3, [1 / 4, 0, 0], [0] * 3]),
        (sequence_mean, "sequence_mean", (3 + 4) / 2, [[1 / 6] * 3, [1 / 2, 0, 0], [0] * 3]),
        (
            functools.partial(scaled_sum, length=5.0),
            "scaled_sum",
            (9 + 4) / 2 / 5,
            [[1 / 10] * 3, [1 / 10, 0, 0], [0] * 3],
        ),
    ],
    ids=["token_mean", "sequence_mean", "scaled_sum"],
)


@EVERY
def test_by_hand_and_by_loops(aggregate, name, by_hand, weights):
    value, gradient = jax.jit(jax.value_and_grad(aggregate))(X, MASK)
    np.testing.assert_allclose(value, by_hand, rtol=1e-6)
    np.testing.assert_allclose(gradient, weights, rtol=1e-6)
    kept = {(b, t): float(X[b, t]) for b, t in loss_twins.positions(MASK)}
    np.testing.assert_allclose(value, loss_twins.weighted_mean(kept, MASK, name, 5.0), rtol=1e-6)


@EVERY
def test_nothing_kept_gives_zero(aggregate, name, by_hand, weights):
    value, gradient = jax.jit(jax.value_and_grad(aggregate))(X, np.zeros_like(MASK))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(X))


@EVERY
def test_refuses_shapes_that_would_broadcast(aggregate, name, by_hand, weights):
    for x, mask in [(X[0], MASK[0]), (X, MASK[:1])]:
        with pytest.raises(AssertionError):
            aggregate(x, mask)
