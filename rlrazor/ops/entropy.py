"""Entropy, computed exactly over the last axis."""

import jax
import jax.numpy as jnp


def entropy(
    log_p: jax.Array,  # f32[..., V] log-probabilities; -inf = impossible
) -> jax.Array:  # f32[...] nats
    """H(p) = -sum_v p(v) log p(v), with 0 log 0 = 0 and no gradient there. NaN in, NaN out."""
    possible = log_p != -jnp.inf
    safe = jnp.where(possible, log_p, 0.0)
    return -jnp.sum(jnp.where(possible, jnp.exp(safe) * safe, 0.0), axis=-1)
