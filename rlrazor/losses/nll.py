"""Negative log-likelihood: supervised fine-tuning on given tokens."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def nll(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    mask: jax.Array,  # bool[B, T] tokens of the answer
) -> tuple[jax.Array, Metrics]:
    """-log pi(y_t), averaged over the kept tokens of the batch.

    The method is in where y comes from: one fixed label, an oracle, frozen samples of
    the base (self-SFT) or fresh correct samples of the policy (iterative SFT), whose expected
    gradient is that of -log pi(correct).
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, mask])
    chex.assert_type([logprobs, mask], [jnp.float32, bool])
    return -masked_mean(logprobs, mask), {"tokens": jnp.sum(mask)}
