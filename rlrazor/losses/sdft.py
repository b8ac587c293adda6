"""Self-distillation: the policy learns from itself with the demonstration in view."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.aggregate import Aggregate
from rlrazor.ops.kl import kl
from rlrazor.types import Metrics


def sdft(
    log_policy: jax.Array,  # f32[B, T, V] log pi(. | x, y_<t)
    log_teacher: jax.Array,  # f32[B, T, V] log pi_ema(. | x, demonstration, y_<t); constants
    mask: jax.Array,  # bool[B, T] tokens of y, which the policy chose without the demonstration
    *,
    aggregate: Aggregate,
) -> tuple[jax.Array, Metrics]:
    """KL(pi || sg(teacher)) over the whole vocabulary, token by token (SDFT, arXiv 2601.19897).

    The teacher is a moving average of the policy that reads the demonstration before it answers, so
    both arrays are aligned by the token of y, not by position in the prompt. What y_t does to later
    tokens carries no gradient. The metric `kl_nats` is the sum over `tokens`.
    """
    B, T, V = log_policy.shape
    chex.assert_shape(log_teacher, (B, T, V))
    chex.assert_shape(mask, (B, T))
    chex.assert_type([log_policy, log_teacher, mask], [jnp.float32, jnp.float32, bool])
    kept = mask[..., None]
    log_teacher = jnp.where(kept, jax.lax.stop_gradient(log_teacher), 0.0)
    divergence = kl(jnp.where(kept, log_policy, 0.0), log_teacher)
    return aggregate(divergence, mask), {"tokens": jnp.sum(mask), "kl_nats": jnp.sum(divergence)}
