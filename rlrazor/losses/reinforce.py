"""REINFORCE of whole answers: the sum over an answer's tokens, whatever its length."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.aggregate import scaled_sum
from rlrazor.types import Metrics


def reinforce(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix) of the policy's own samples
    advantages: jax.Array,  # f32[B] treated as constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
) -> tuple[jax.Array, Metrics]:
    """-A log pi(y), log pi(y) = sum_t log pi(y_t), averaged over the answers.

    With fresh samples its expected gradient is that of -E[r], exactly: for A = r in {0, 1} (1-0
    REINFORCE) and for A of `ops.advantages.leave_one_out` (RLOO, arXiv 2402.14740). Where answers
    differ in length `policy_gradient`, a mean over tokens, has another one. The value is a
    surrogate: only its gradient means something.
    """
    B, T = logprobs.shape
    chex.assert_shape(advantages, (B,))
    chex.assert_shape(mask, (B, T))
    chex.assert_type([logprobs, advantages, mask], [jnp.float32, jnp.float32, bool])
    A = jax.lax.stop_gradient(advantages)[:, None]
    # A = 0 asks for nothing, also of a token with log pi = -inf, where 0 * -inf would be NaN.
    logprobs = jnp.where(mask & (A != 0.0), logprobs, 0.0)
    loss = -scaled_sum(jnp.where(mask, A, 0.0) * logprobs, mask, length=1.0)
    return loss, {"sequences": jnp.sum(jnp.any(mask, axis=-1)), "tokens": jnp.sum(mask)}
