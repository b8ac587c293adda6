"""SimPO as RL's Razor prints it: a correct answer against a wrong one."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def simpo(
    chosen_logprobs: jax.Array,  # f32[B, T] log pi(token | prefix) of the correct answer y_w
    chosen_mask: jax.Array,  # bool[B, T]
    rejected_logprobs: jax.Array,  # f32[B, T] of the wrong answer y_l (T may differ)
    rejected_mask: jax.Array,  # bool[B, T]
    *,
    beta: float | jax.Array,  # scale of the log-ratio; the paper has 1
    margin: float | jax.Array,  # by which beta times the log-ratio should win; the paper has 1
) -> tuple[jax.Array, Metrics]:
    """-log sigmoid(beta (log pi(y_w) - log pi(y_l)) - margin), averaged over pairs.

    log pi(y) is the sum over the sequence, where SimPO's own paper (arXiv 2405.14734) takes the
    mean; in a bandit they agree. A pair counts if both of its answers keep a token. The metric
    `preferred` is the number of pairs with pi(y_w) > pi(y_l); divide by `pairs` for the rate.
    """
    chex.assert_rank([chosen_logprobs, rejected_logprobs], 2)
    chex.assert_equal_shape([chosen_logprobs, chosen_mask])
    chex.assert_equal_shape([rejected_logprobs, rejected_mask])
    chex.assert_equal_shape_prefix([chosen_logprobs, rejected_logprobs], 1)
    chex.assert_type([chosen_logprobs, rejected_logprobs], jnp.float32)
    chex.assert_type([chosen_mask, rejected_mask], bool)
    counts = jnp.any(chosen_mask, axis=-1) & jnp.any(rejected_mask, axis=-1)
    log_pi_w = jnp.sum(jnp.where(chosen_mask, chosen_logprobs, 0.0), axis=-1)
    log_pi_l = jnp.sum(jnp.where(rejected_mask, rejected_logprobs, 0.0), axis=-1)
    log_ratio = jnp.where(counts, log_pi_w - log_pi_l, 0.0)
    loss = -masked_mean(jax.nn.log_sigmoid(beta * log_ratio - margin), counts)
    return loss, {"pairs": jnp.sum(counts), "preferred": jnp.sum(counts & (log_ratio > 0.0))}
