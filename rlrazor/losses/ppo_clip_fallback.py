"""PPO's clipped surrogate as the code of "SFT Memorizes, RL Generalizes" computes it."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.aggregate import Aggregate
from rlrazor.ops.ratios import token_ratios
from rlrazor.types import Metrics


def ppo_clip_fallback(
    logprobs: jax.Array,  # f32[B, T] log pi(action | what was seen)
    behaviour_logprobs: jax.Array,  # f32[B, T] of the distribution actually sampled; constants
    advantages: jax.Array,  # f32[B, T] treated as constants
    mask: jax.Array,  # bool[B, T] actions the policy chose
    *,
    clip_low: float | jax.Array,  # that code has 0.1
    clip_high: float | jax.Array,  # that code has 0.1
    fallback_above: float | jax.Array,  # that code has 10
    aggregate: Aggregate,
) -> tuple[jax.Array, Metrics]:
    """`ppo_clip`, but -clip(rho) A alone, without the minimum, where rho > fallback_above.

    `ppo_clip` pushes an action that became far likelier although A < 0 down, in proportion to rho;
    here it gets no gradient at all. For A > 0 the two are the same. The released code decides once
    for a minibatch, whose size there is one action (a whole answer): hence action by action here,
    and [B, 1] arrays for the paper's setting. Metrics: `fallbacks` counts them among `tokens`.
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, behaviour_logprobs, advantages, mask])
    chex.assert_type([logprobs, behaviour_logprobs, advantages], jnp.float32)
    chex.assert_type(mask, bool)
    A = jnp.where(mask, jax.lax.stop_gradient(advantages), 0.0)
    ratio = token_ratios(logprobs, behaviour_logprobs, mask)
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    falls_back = mask & (ratio > fallback_above)
    surrogate = jnp.where(falls_back, clipped * A, jnp.minimum(ratio * A, clipped * A))
    return -aggregate(surrogate, mask), {
        "tokens": jnp.sum(mask),
        "ratio": jnp.sum(jnp.where(mask, ratio, 0.0)),
        "fallbacks": jnp.sum(falls_back),
    }
