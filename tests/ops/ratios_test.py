import jax
import numpy as np
import pytest

from rlrazor.ops.ratios import sequence_ratios, token_ratios
from tests.oracles import loss_twins

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def example():
    logprobs, behaviour = -np.random.default_rng(0).exponential(size=(2, 3, 4)).astype(np.float32)
    return logprobs, behaviour, np.arange(4) < np.array([[4], [2], [0]])


def test_values_by_loops():
    logprobs, behaviour, mask = example()
    expected = np.where(mask, np.exp(logprobs.astype(np.float64) - behaviour), 1.0)
    np.testing.assert_allclose(jax.jit(token_ratios)(*example()), expected, rtol=1e-5)
    of_answers = [
        loss_twins.geometric_mean_ratio(logprobs[b], behaviour[b], mask[b]) for b in range(2)
    ]
    np.testing.assert_allclose(jax.jit(sequence_ratios)(*example()), [*of_answers, 1.0], rtol=1e-5)


@pytest.mark.parametrize("ratios", [token_ratios, sequence_ratios])
def test_behaviour_is_a_constant_and_garbage_is_not_read(ratios):
    logprobs, behaviour, mask = example()
    gradients = jax.jit(jax.grad(lambda x, y, m: ratios(x, y, m).sum(), argnums=(0, 1)))
    by_policy, by_behaviour = gradients(logprobs, behaviour, mask)
    np.testing.assert_array_equal(by_behaviour, np.zeros((3, 4)))
    assert ((np.asarray(by_policy) != 0) == mask).all()
    dirty = [np.where(mask, x, np.float32(np.nan)) for x in (logprobs, behaviour)]
    np.testing.assert_array_equal(gradients(*dirty, mask)[0], by_policy)


@pytest.mark.parametrize("ratios", [token_ratios, sequence_ratios])
def test_a_ratio_too_large_for_a_float_is_held_and_has_no_gradient(ratios):
    arrays = np.zeros((1, 1), np.float32), np.full((1, 1), -1e4, np.float32), np.ones((1, 1), bool)
    run = jax.jit(jax.value_and_grad(lambda x, y, m: ratios(x, y, m).sum()))
    value, gradient = run(*arrays)
    np.testing.assert_allclose(value, np.exp(80), rtol=1e-4)
    assert gradient == 0.0
