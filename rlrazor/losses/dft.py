"""Dynamic fine-tuning: likelihood weighted by the policy's own probability."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def dft(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    mask: jax.Array,  # bool[B, T] tokens of the answer
) -> tuple[jax.Array, Metrics]:
    """-sg(pi(y_t)) log pi(y_t), averaged over the kept tokens (arXiv 2508.05629).

    The gradient is -grad pi(y_t): likelihood's own 1/pi factor is cancelled. A token with
    pi = 0 contributes 0, the limit, in value and gradient. The metric `probability` is the sum of
    pi(y_t) over the kept tokens; divide by `tokens` for the mean.
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, mask])
    chex.assert_type([logprobs, mask], [jnp.float32, bool])
    possible = mask & (logprobs != -jnp.inf)
    logprobs = jnp.where(possible, logprobs, 0.0)
    weights = jax.lax.stop_gradient(jnp.where(possible, jnp.exp(logprobs), 0.0))
    metrics = {"tokens": jnp.sum(mask), "probability": jnp.sum(weights)}
    return -masked_mean(weights * logprobs, mask), metrics
