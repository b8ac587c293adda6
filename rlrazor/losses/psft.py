"""Proximal SFT: demonstrations, learnt no faster than a trust region allows."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.ops.ratios import token_ratios
from rlrazor.types import Metrics


def psft(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix) of the demonstration
    previous_logprobs: jax.Array,  # f32[B, T] under the policy of some steps ago; constants
    mask: jax.Array,  # bool[B, T] tokens of the answer
    *,
    clip_high: float | jax.Array,  # a token gains nothing above 1 + clip_high; the paper has 0.28
) -> tuple[jax.Array, Metrics]:
    """-min(rho, clip(rho, 1 - low, 1 + high)), averaged over the kept tokens (arXiv 2508.17784).

    rho = pi / pi_previous: PPO with A = 1. Of the paper's two bounds the lower one cannot act,
    because min(rho, clip(rho)) is min(rho, 1 + high): hence one knob. At rho = 1 the gradient is
    that of `nll`; a token already likelier by 1 + high gets none. The metric `clipped` counts those
    among `tokens`, `ratio` is the sum of rho.
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, previous_logprobs, mask])
    chex.assert_type([logprobs, previous_logprobs, mask], [jnp.float32, jnp.float32, bool])
    ratio = token_ratios(logprobs, previous_logprobs, mask)
    return -masked_mean(jnp.minimum(ratio, 1.0 + clip_high), mask), {
        "tokens": jnp.sum(mask),
        "ratio": jnp.sum(jnp.where(mask, ratio, 0.0)),
        "clipped": jnp.sum(mask & (ratio > 1.0 + clip_high)),
    }
