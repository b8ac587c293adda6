"""Entropy bonus: the price of certainty."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def entropy_bonus(
    log_policy: jax.Array,  # f32[B, T, V] log pi(. | prefix)
    mask: jax.Array,  # bool[B, T] tokens the policy chose
) -> tuple[jax.Array, Metrics]:
    """-H(pi) = sum_v pi(v) log pi(v), averaged over the kept tokens: minus the entropy, in nats.

    Like every loss it is to be added, with a positive coefficient, and minimised. 0 log 0 = 0, with
    no gradient. The metric `entropy_nats` is the sum of H over `tokens`.
    """
    B, T, _ = log_policy.shape
    chex.assert_shape(mask, (B, T))
    chex.assert_type([log_policy, mask], [jnp.float32, bool])
    possible = mask[..., None] & (log_policy != -jnp.inf)
    log_pi = jnp.where(possible, log_policy, 0.0)
    entropies = -jnp.sum(jnp.where(possible, jnp.exp(log_pi) * log_pi, 0.0), axis=-1)
    return -masked_mean(entropies, mask), {
        "tokens": jnp.sum(mask),
        "entropy_nats": jnp.sum(entropies),
    }
