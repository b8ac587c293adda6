"""Advantages of G samples of one prompt, relative to each other."""

import chex
import jax
import jax.numpy as jnp


def centred(
    rewards: jax.Array,  # f32[B, G]
) -> jax.Array:  # f32[B, G]
    """r - mean(r) over the group (Dr. GRPO, arXiv 2503.20783).

    The mean includes the sample itself, so the expected policy gradient is (G - 1)/G times the
    exact one. A group of equal rewards gives exactly 0, and so does G = 1.
    """
    chex.assert_rank(rewards, 2)
    # Measured from the first sample: the mean of G equal floats need not be that float, and
    # `standardised` would blow the rounding error up to an advantage of order one.
    shifted = rewards - rewards[:, :1]
    return shifted - jnp.mean(shifted, axis=-1, keepdims=True)


def standardised(
    rewards: jax.Array,  # f32[B, G]
    *,
    epsilon: float | jax.Array,  # >= 0, in units of the reward
) -> jax.Array:  # f32[B, G]
    """(r - mean(r)) / (std(r) + epsilon) over the group (GRPO, arXiv 2402.03300).

    std divides by G, not G - 1, and so is defined for G = 1. A group of equal rewards gives
    exactly 0, even for epsilon = 0. Beware: this is no longer proportional to a policy gradient.
    """
    advantages = centred(rewards)
    variance = jnp.mean(jnp.square(advantages), axis=-1, keepdims=True)
    equal = variance == 0.0  # not `<= 0`: NaN must pass
    std = jnp.sqrt(jnp.where(equal, 1.0, variance))
    return jnp.where(equal, 0.0, advantages / (std + epsilon))
