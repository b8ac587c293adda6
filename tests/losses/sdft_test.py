import functools

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from rlrazor.losses.on_policy_distillation import exact_on_policy_distillation
from rlrazor.losses.sdft import sdft
from rlrazor.ops.aggregate import sequence_mean, token_mean
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def example():
    log_policy, log_teacher = log_softmax(
        np.random.default_rng(0).normal(size=(2, 4, 3, 5)), axis=-1
    ).astype(np.float32)
    return log_policy, log_teacher, np.arange(3) < np.array([[3], [1], [2], [0]])


def run(aggregate):
    loss = functools.partial(sdft, aggregate=aggregate)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(*example())


@pytest.mark.parametrize("aggregate", [token_mean, sequence_mean])
def test_value_and_gradient_equal_the_twin(aggregate):
    log_policy, log_teacher, mask = example()
    (value, metrics), gradient = run(aggregate)
    twin = functools.partial(loss_twins.sdft, aggregate=aggregate.__name__)
    np.testing.assert_allclose(value, twin(log_policy, log_teacher, mask), rtol=1e-5)
    expected = numerical_gradient(lambda x: twin(x, log_teacher, mask), log_policy)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    total = 6 * twin(log_policy, log_teacher, mask) if aggregate is token_mean else None
    if total is not None:
        np.testing.assert_allclose(metrics["kl_nats"], total, rtol=1e-5)
    assert metrics["tokens"] == 6


def test_as_a_mean_over_tokens_it_is_exact_distillation():
    (value, _), gradient = run(token_mean)
    loss = jax.jit(jax.value_and_grad(exact_on_policy_distillation, has_aux=True))
    (expected, _), slope = loss(*example())
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)
