"""GSPO: one importance ratio, and one clip, for a whole answer."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.ops.ratios import sequence_ratios
from rlrazor.types import Metrics


def gspo(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    behaviour_logprobs: jax.Array,  # f32[B, T] of the distribution actually sampled; constants
    advantages: jax.Array,  # f32[B] treated as constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
    *,
    clip_low: float | jax.Array,  # far below a token's: the paper has 3e-4
    clip_high: float | jax.Array,  # the paper has 4e-4
) -> tuple[jax.Array, Metrics]:
    """-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), averaged over the answers.

    s = (pi(y) / pi_behaviour(y))^(1 / |y|), equation 7 of arXiv 2507.18071; its gradient is s times
    the mean over the tokens of grad log pi(y_t). An answer of no tokens does not count. Metrics:
    `ratio` is the sum of s over `sequences`, the other two count answers that the clip holds.
    """
    B, T = logprobs.shape
    chex.assert_shape([behaviour_logprobs, mask], (B, T))
    chex.assert_shape(advantages, (B,))
    chex.assert_type([logprobs, behaviour_logprobs, advantages], jnp.float32)
    chex.assert_type(mask, bool)
    answered = jnp.any(mask, axis=-1)
    A = jnp.where(answered, jax.lax.stop_gradient(advantages), 0.0)
    s = sequence_ratios(logprobs, behaviour_logprobs, mask)
    clipped = jnp.clip(s, 1.0 - clip_low, 1.0 + clip_high)
    surrogate = jnp.minimum(s * A, clipped * A)
    return -masked_mean(surrogate, answered), {
        "sequences": jnp.sum(answered),
        "ratio": jnp.sum(jnp.where(answered, s, 0.0)),
        "clipped_low": jnp.sum((s < 1.0 - clip_low) & (A < 0.0)),
        "clipped_high": jnp.sum((s > 1.0 + clip_high) & (A > 0.0)),
    }
