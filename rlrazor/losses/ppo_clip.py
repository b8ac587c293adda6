"""PPO's clipped surrogate, and with it GRPO, Dr. GRPO, DAPO and RLOO."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.aggregate import Aggregate
from rlrazor.ops.ratios import token_ratios
from rlrazor.types import Metrics


def ppo_clip(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    behaviour_logprobs: jax.Array,  # f32[B, T] of the distribution actually sampled; constants
    advantages: jax.Array,  # f32[B, T] treated as constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
    *,
    clip_low: float | jax.Array,  # the ratio earns nothing below 1 - clip_low ...
    clip_high: float | jax.Array,  # ... and above 1 + clip_high (DAPO's clip-higher: the larger)
    aggregate: Aggregate,  # from ops.aggregate: the algorithms differ in it
) -> tuple[jax.Array, Metrics]:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), rho = pi / pi_behaviour.

    Equation 7 of PPO (arXiv 1707.06347). At rho = 1 its gradient is the policy gradient's. What an
    action is, the arrays say: a position is a token, or, where [B, 1] arrays hold the
    log-probabilities of whole answers, an answer (RLOO; the PPO of arXiv 2501.17161, which counts
    the tokens before the formula half). Metrics: `ratio` is the sum of rho over `tokens`;
    `clipped_low` and `clipped_high` count those that the clip keeps from moving.
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, behaviour_logprobs, advantages, mask])
    chex.assert_type([logprobs, behaviour_logprobs, advantages], jnp.float32)
    chex.assert_type(mask, bool)
    A = jnp.where(mask, jax.lax.stop_gradient(advantages), 0.0)
    ratio = token_ratios(logprobs, behaviour_logprobs, mask)
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    surrogate = jnp.minimum(ratio * A, clipped * A)
    metrics = {
        "tokens": jnp.sum(mask),
        "ratio": jnp.sum(jnp.where(mask, ratio, 0.0)),
        "clipped_low": jnp.sum((ratio < 1.0 - clip_low) & (A < 0.0)),
        "clipped_high": jnp.sum((ratio > 1.0 + clip_high) & (A > 0.0)),
    }
    return -aggregate(surrogate, mask), metrics
