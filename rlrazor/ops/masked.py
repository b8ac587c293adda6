"""Means that count only what a mask keeps."""

import chex
import jax
import jax.numpy as jnp


def masked_mean(
    x: jax.Array,  # f32[...]
    mask: jax.Array,  # bool[...] True = counts
) -> jax.Array:  # f32[]
    """Mean of `x` over the kept positions, divided by their own number.

    What the mask drops is never read: NaN or infinity there changes neither value nor gradient.
    An empty mask gives 0 with zero gradient, so that a batch of padding is a no-op in training.
    """
    chex.assert_equal_shape([x, mask])
    chex.assert_type([x, mask], [float, bool])
    # In bfloat16 the count itself would be rounded from 257 on.
    x = x.astype(jnp.float32)
    total = jnp.sum(jnp.where(mask, x, 0.0))
    count = jnp.sum(mask).astype(jnp.float32)
    return total / jnp.maximum(count, 1.0)
