"""DPO: a preferred answer against a rejected one, both measured from the base."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def dpo(
    chosen_logprobs: jax.Array,  # f32[B, T] log pi(token | prefix) of the preferred answer y_w
    chosen_base_logprobs: jax.Array,  # f32[B, T] log pi_0 of it; constants
    chosen_mask: jax.Array,  # bool[B, T]
    rejected_logprobs: jax.Array,  # f32[B, T] of the rejected answer y_l (T may differ)
    rejected_base_logprobs: jax.Array,  # f32[B, T] constants
    rejected_mask: jax.Array,  # bool[B, T]
    *,
    beta: float | jax.Array,  # nats of KL a unit of implied reward; the smaller, the freer
) -> tuple[jax.Array, Metrics]:
    """-log sigmoid(beta (log pi/pi_0 (y_w) - log pi/pi_0 (y_l))), averaged over pairs.

    Equation 7 of arXiv 2305.18290; log pi(y) is the sum over the sequence. A pair counts if both of
    its answers keep a token. The metric `preferred` counts the pairs with a positive difference,
    `margin_nats` sums the differences (without beta); divide both by `pairs`.
    """
    chosen = (chosen_logprobs, chosen_base_logprobs)
    rejected = (rejected_logprobs, rejected_base_logprobs)
    chex.assert_rank([chosen_logprobs, rejected_logprobs], 2)
    chex.assert_equal_shape([*chosen, chosen_mask])
    chex.assert_equal_shape([*rejected, rejected_mask])
    chex.assert_equal_shape_prefix([chosen_logprobs, rejected_logprobs], 1)
    chex.assert_type([*chosen, *rejected], jnp.float32)
    chex.assert_type([chosen_mask, rejected_mask], bool)
    counts = jnp.any(chosen_mask, axis=-1) & jnp.any(rejected_mask, axis=-1)
    moved_w = _log_ratio(*chosen, chosen_mask)
    moved_l = _log_ratio(*rejected, rejected_mask)
    margin = jnp.where(counts, moved_w - moved_l, 0.0)
    return -masked_mean(jax.nn.log_sigmoid(beta * margin), counts), {
        "pairs": jnp.sum(counts),
        "preferred": jnp.sum(counts & (margin > 0.0)),
        "margin_nats": jnp.sum(margin),
    }


def _log_ratio(logprobs, base_logprobs, mask):  # f32[B]: log pi(y) - log pi_0(y)
    base_logprobs = jax.lax.stop_gradient(base_logprobs)
    per_token = jnp.where(mask, logprobs, 0.0) - jnp.where(mask, base_logprobs, 0.0)
    return jnp.sum(per_token, axis=-1)
