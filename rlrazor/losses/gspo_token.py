"""GSPO-token: the ratio of a whole answer, with an advantage of every token's own."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.aggregate import sequence_mean
from rlrazor.ops.ratios import sequence_ratios, token_ratios
from rlrazor.types import Metrics


def gspo_token(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    behaviour_logprobs: jax.Array,  # f32[B, T] of the distribution actually sampled; constants
    advantages: jax.Array,  # f32[B, T] treated as constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
    *,
    clip_low: float | jax.Array,
    clip_high: float | jax.Array,
) -> tuple[jax.Array, Metrics]:
    """-min(s_t A_t, clip(s_t, 1 - clip_low, 1 + clip_high) A_t), s_t = sg(s) pi(y_t) / sg(pi(y_t)).

    Averaged over each answer's tokens, then over the answers: equations 13 and 14 of arXiv
    2507.18071, with s the answer's ratio as in `gspo`. Every s_t has the value of s, so an answer
    is clipped as one; its gradient goes through its own token only. With equal advantages in an
    answer it is `gspo`, value and gradient.
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, behaviour_logprobs, advantages, mask])
    chex.assert_type([logprobs, behaviour_logprobs, advantages], jnp.float32)
    chex.assert_type(mask, bool)
    A = jnp.where(mask, jax.lax.stop_gradient(advantages), 0.0)
    s = jax.lax.stop_gradient(sequence_ratios(logprobs, behaviour_logprobs, mask))[:, None]
    s_t = s * token_ratios(logprobs, jax.lax.stop_gradient(logprobs), mask)
    clipped = jnp.clip(s_t, 1.0 - clip_low, 1.0 + clip_high)
    surrogate = jnp.minimum(s_t * A, clipped * A)
    return -sequence_mean(surrogate, mask), {
        "tokens": jnp.sum(mask),
        "ratio": jnp.sum(jnp.where(mask, s_t, 0.0)),
        "clipped_low": jnp.sum((s_t < 1.0 - clip_low) & (A < 0.0)),
        "clipped_high": jnp.sum((s_t > 1.0 + clip_high) & (A > 0.0)),
    }
