import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.on_policy_distillation import (
    exact_on_policy_distillation,
    on_policy_distillation,
)
from rlrazor.ops.aggregate import scaled_sum, sequence_mean, token_mean
from tests.oracles import loss_twins, tiny_sequences
from tests.oracles.finite_differences import numerical_gradient
from tests.oracles.tiny_sequences import BASE as TEACHER
from tests.oracles.tiny_sequences import FULL, POLICY

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SUM = functools.partial(scaled_sum, length=1.0)


@pytest.mark.parametrize("aggregate", [token_mean, sequence_mean])
def test_value_and_gradient_equal_the_twin_whose_advantages_stay_put(aggregate):
    rng = np.random.default_rng(0)
    logprobs, teacher = -rng.exponential(size=(2, 4, 3)).astype(np.float32)
    mask = np.arange(3) < np.array([[3], [1], [2], [0]])
    loss = functools.partial(on_policy_distillation, aggregate=aggregate)
    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        logprobs, teacher, mask
    )
    twin = functools.partial(loss_twins.on_policy_distillation, aggregate=aggregate.__name__)
    np.testing.assert_allclose(value, twin(logprobs, logprobs, teacher, mask), rtol=1e-5)
    expected = numerical_gradient(lambda x: twin(x, logprobs, teacher, mask), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert metrics["tokens"] == 6
    np.testing.assert_allclose(metrics["kl_nats"], (logprobs - teacher)[mask].sum(), rtol=1e-5)


def test_expected_gradients_are_that_of_each_tokens_divergence_from_the_teacher():
    def losses_of_answer(theta, y):
        policy, teacher = theta, jnp.array(TEACHER)
        rows = (tiny_sequences.logprobs(x)[y][None] for x in (policy, teacher))
        tables = (tiny_sequences.log_tables(x)[y][None] for x in (policy, teacher))
        return {
            "sampled": on_policy_distillation(*rows, FULL, aggregate=SUM)[0],
            "exact": 2.0 * exact_on_policy_distillation(*tables, FULL)[0],  # a mean over two
        }

    expected = numerical_gradient(lambda x: tiny_sequences.kl_per_token(x, TEACHER, POLICY), POLICY)
    for _, gradients in tiny_sequences.of_every_answer(losses_of_answer).values():
        np.testing.assert_allclose(tiny_sequences.expected(gradients), expected, atol=1e-6)
