"""Importance ratios of the policy to the one that sampled."""

import chex
import jax
import jax.numpy as jnp

# exp(80) is still a float32. Beyond it a ratio would be infinite, and its gradient NaN even where a
# clip ignores it; held there, it has no gradient, as a clipped one.
LARGEST_LOG_RATIO = 80.0


def token_ratios(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    behaviour_logprobs: jax.Array,  # f32[B, T] of the distribution actually sampled
    mask: jax.Array,  # bool[B, T] tokens the policy chose
) -> jax.Array:  # f32[B, T]
    """pi / pi_behaviour of every token; 1, and no gradient, where the mask drops."""
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, behaviour_logprobs, mask])
    return _exp(_log_ratios(logprobs, behaviour_logprobs, mask))


def sequence_ratios(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    behaviour_logprobs: jax.Array,  # f32[B, T] of the distribution actually sampled
    mask: jax.Array,  # bool[B, T] tokens the policy chose
) -> jax.Array:  # f32[B]
    """(pi(y) / pi_behaviour(y))^(1 / |y|): the geometric mean of the kept tokens' ratios."""
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, behaviour_logprobs, mask])
    lengths = jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(jnp.float32)
    return _exp(jnp.sum(_log_ratios(logprobs, behaviour_logprobs, mask), axis=-1) / lengths)


def _log_ratios(logprobs, behaviour_logprobs, mask):
    return jnp.where(mask, logprobs, 0.0) - jnp.where(
        mask, jax.lax.stop_gradient(behaviour_logprobs), 0.0
    )


def _exp(log_ratios):
    return jnp.exp(jnp.minimum(log_ratios, LARGEST_LOG_RATIO))
