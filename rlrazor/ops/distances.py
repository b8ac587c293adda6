"""Symmetric distances between categorical distributions, over the last axis."""

import chex
import jax
import jax.numpy as jnp


def total_variation(
    log_p: jax.Array,  # f32[..., V] log-probabilities; -inf = impossible
    log_q: jax.Array,  # f32[..., V]
) -> jax.Array:  # f32[...] in [0, 1]
    """TV(p, q) = 1/2 sum_v |p(v) - q(v)|: the most that any event's probability can differ."""
    chex.assert_equal_shape([log_p, log_q])
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1)


def l2_distance(
    log_p: jax.Array,  # f32[..., V] log-probabilities; -inf = impossible
    log_q: jax.Array,  # f32[..., V]
) -> jax.Array:  # f32[...] in [0, sqrt 2]
    """sqrt(sum_v (p(v) - q(v))^2), with gradient 0 where p = q (the root alone would give NaN)."""
    chex.assert_equal_shape([log_p, log_q])
    squared = jnp.sum(jnp.square(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1)
    same = squared == 0.0  # not `<= 0`: NaN must pass
    return jnp.where(same, 0.0, jnp.sqrt(jnp.where(same, 1.0, squared)))
