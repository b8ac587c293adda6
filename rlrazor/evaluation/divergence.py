"""How far the policy's distributions have moved from the base's, exactly over the classes.

These are the first rows of RL's Razor (arXiv 2509.04259), Table 1; its forgetting law is a
quadratic in the first of them, measured on the new task's inputs.
"""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.distances import l2_distance, total_variation
from rlrazor.ops.kl import kl
from rlrazor.types import Metrics


def divergences(
    base_logits: jax.Array,  # f32[N, V]
    policy_logits: jax.Array,  # f32[N, V]
) -> Metrics:
    """Four distances between base and policy, summed over the classes, averaged over the inputs.

    `kl_base_policy_nats` is KL(base || policy), which the paper calls forward KL;
    `kl_policy_base_nats` is KL(policy || base), its reverse KL. `total_variation` lies in [0, 1],
    `l2_distance` (of the probability vectors) in [0, sqrt(2)]. KL is +inf, not an error, where its
    second argument rules out a class that its first one allows.
    """
    chex.assert_rank(base_logits, 2)
    chex.assert_equal_shape([base_logits, policy_logits])
    log_base = jax.nn.log_softmax(base_logits.astype(jnp.float32))
    log_policy = jax.nn.log_softmax(policy_logits.astype(jnp.float32))
    return {
        "kl_base_policy_nats": jnp.mean(kl(log_base, log_policy)),
        "kl_policy_base_nats": jnp.mean(kl(log_policy, log_base)),
        "total_variation": jnp.mean(total_variation(log_base, log_policy)),
        "l2_distance": jnp.mean(l2_distance(log_base, log_policy)),
    }
