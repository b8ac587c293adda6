"""Cross-entropy to a whole target distribution."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def soft_cross_entropy(
    log_policy: jax.Array,  # f32[B, T, V] log pi(. | prefix)
    target_probs: jax.Array,  # f32[B, T, V] treated as constants
    mask: jax.Array,  # bool[B, T] tokens of the answer
) -> tuple[jax.Array, Metrics]:
    """-sum_v q(v) log pi(v), averaged over the kept tokens of the batch.

    This is the expectation of `nll` over labels v ~ q, without their sampling noise (RL's Razor:
    the oracle q is pi_0 renormalised on the correct answers). A class with q(v) = 0 is ignored,
    also where log pi(v) = -inf; q(v) > 0 = pi(v) gives +inf.
    """
    B, T, V = log_policy.shape
    chex.assert_shape(target_probs, (B, T, V))
    chex.assert_shape(mask, (B, T))
    chex.assert_type([log_policy, target_probs, mask], [jnp.float32, jnp.float32, bool])
    target = jax.lax.stop_gradient(target_probs)
    # 0 * -inf would be NaN, and so would the gradient of a masked NaN.
    counts = (target != 0.0) & mask[..., None]
    log_policy = jnp.where(counts, log_policy, 0.0)
    cross_entropy = -jnp.sum(target * log_policy, axis=-1)
    return masked_mean(cross_entropy, mask), {"tokens": jnp.sum(mask)}
