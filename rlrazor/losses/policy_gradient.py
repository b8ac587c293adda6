"""REINFORCE, for whatever advantages it is given."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def policy_gradient(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix) of the policy's own samples
    advantages: jax.Array,  # f32[B] treated as constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
) -> tuple[jax.Array, Metrics]:
    """-A log pi(y_t), averaged over the chosen tokens of the batch.

    With A = r in {0, 1} it is 1-0 REINFORCE; with A from `ops.advantages` (B then counts prompts
    times samples) it is GRPO at its first inner iteration, where the ratio to the behaviour policy
    is 1 and no clip acts. The value is a surrogate: only its gradient means something.
    """
    B, T = logprobs.shape
    chex.assert_shape(advantages, (B,))
    chex.assert_shape(mask, (B, T))
    chex.assert_type([logprobs, advantages, mask], [jnp.float32, jnp.float32, bool])
    weights = jax.lax.stop_gradient(advantages)[:, None]
    # A = 0 asks for nothing, also of a token with log pi = -inf, where 0 * -inf would be NaN.
    logprobs = jnp.where(mask & (weights != 0.0), logprobs, 0.0)
    return -masked_mean(weights * logprobs, mask), {"tokens": jnp.sum(mask)}
