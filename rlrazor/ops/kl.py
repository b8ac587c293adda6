"""Kullback-Leibler divergence, computed exactly over the last axis."""

import chex
import jax
import jax.numpy as jnp


def kl(
    log_p: jax.Array,  # f32[..., V] log-probabilities; -inf = impossible
    log_q: jax.Array,  # f32[..., V]
) -> jax.Array:  # f32[...] nats
    """KL(p || q) = sum_v p(v) (log p(v) - log q(v)); the order of the arguments is the direction.

    0 log 0 = 0, and the divergence is +inf where p puts mass that q lacks. Both arguments are
    differentiable, with finite gradients at -inf: a class with p = 0 contributes none (the limit),
    and neither does a class with p > 0 = q, whose true derivative in log p is +inf; there the value
    alone tells. NaN in, NaN out.
    """
    chex.assert_equal_shape([log_p, log_q])
    # Comparing for equality with -inf, rather than `> -inf`, lets NaN through to the sum.
    absent = log_p == -jnp.inf
    missing = ~absent & (log_q == -jnp.inf)
    regular = ~(absent | missing)
    safe_p = jnp.where(regular, log_p, 0.0)
    safe_q = jnp.where(regular, log_q, 0.0)
    terms = jnp.where(regular, jnp.exp(safe_p) * (safe_p - safe_q), 0.0)
    return jnp.sum(jnp.where(missing, jnp.inf, terms), axis=-1)
