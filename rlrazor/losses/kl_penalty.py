"""KL anchor: the price of moving away from another distribution."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.kl import kl
from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def kl_penalty(
    log_p: jax.Array,  # f32[B, T, V] log-probabilities
    log_q: jax.Array,  # f32[B, T, V]
    mask: jax.Array,  # bool[B, T] tokens the policy chose
) -> tuple[jax.Array, Metrics]:
    """KL(p || q) over the whole vocabulary, averaged over the kept tokens, in nats per token.

    Differentiable in both arguments: pass (base, policy) for KL(pi_0 || pi), (policy, base) for
    KL(pi || pi_0), and multiply by the coefficient outside.
    """
    B, T, V = log_p.shape
    chex.assert_shape(log_q, (B, T, V))
    chex.assert_shape(mask, (B, T))
    chex.assert_type([log_p, log_q, mask], [jnp.float32, jnp.float32, bool])
    kept = mask[..., None]
    divergence = kl(jnp.where(kept, log_p, 0.0), jnp.where(kept, log_q, 0.0))
    return masked_mean(divergence, mask), {"tokens": jnp.sum(mask)}
