"""Negative log-likelihood with a weight a token, and two rules that give the weights."""

import math

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.entropy import entropy
from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def weighted_nll(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    weights: jax.Array,  # f32[B, T] constants
    mask: jax.Array,  # bool[B, T] tokens of the answer
) -> tuple[jax.Array, Metrics]:
    """-sg(w_t) log pi(y_t), averaged over the kept tokens: the weights do not sum to their count.

    A token of weight 0 contributes 0, even where it is impossible. The metric `weight` is the sum
    of the kept weights; divide by `tokens` for the mean.
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, weights, mask])
    chex.assert_type([logprobs, weights, mask], [jnp.float32, jnp.float32, bool])
    kept = mask & (weights != 0)
    weights = jax.lax.stop_gradient(jnp.where(mask, weights, 0.0))
    loss = -masked_mean(weights * jnp.where(kept, logprobs, 0.0), mask)
    return loss, {"tokens": jnp.sum(mask), "weight": jnp.sum(weights)}


def entropy_gates(
    log_policy: jax.Array,  # f32[..., V] log pi(. | prefix)
    *,
    most_likely: int,  # K >= 2 tokens; all of a smaller vocabulary
) -> jax.Array:  # f32[...] from 0 to 1
    """Entropy of the K likeliest tokens over its greatest value, log K (EAFT, arXiv 2601.02151).

    Near 0 where the policy is sure, so that what contradicts it there changes it little; their
    probabilities are scaled to sum to 1.
    """
    if most_likely < 2:
        raise ValueError(f"most_likely={most_likely} must be at least 2: one token has no entropy")
    top = min(most_likely, log_policy.shape[-1])
    kept = jax.lax.top_k(log_policy, top)[0]
    return entropy(jax.nn.log_softmax(kept, axis=-1)) / math.log(top)


def tempered_weights(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    mask: jax.Array,  # bool[B, T] tokens of the answer
    *,
    least: float,  # no weight is smaller
) -> jax.Array:  # f32[B, T], 0 outside the mask
    """max(exp(-l_t / tau), least), l_t = -log pi(y_t) (TALR, arXiv 2509.20758).

    tau is the median over the rows of a row's mean l_t: what is hard for the policy weighs little.
    The exponential minimises sum w l + tau sum w log w over weights of a fixed sum.
    """
    chex.assert_equal_shape([logprobs, mask])
    losses = jnp.where(mask, -logprobs, 0.0)
    count = jnp.sum(mask, axis=1).astype(jnp.float32)
    of_row = jnp.where(count > 0, jnp.sum(losses, axis=1) / jnp.maximum(count, 1), jnp.nan)
    tau = jnp.maximum(jnp.nanmedian(of_row), 1e-6)  # all is known: every weight is near 1
    return jnp.where(mask, jnp.maximum(jnp.exp(-losses / tau), least), 0.0)
