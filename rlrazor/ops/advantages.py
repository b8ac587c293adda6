"""Advantages of samples relative to each other: G of one prompt, or a whole batch."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean


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
    return _divided_by_std(advantages, variance, epsilon)


def studentised(
    rewards: jax.Array,  # f32[B, G]
    *,
    epsilon: float | jax.Array,  # >= 0, in units of the reward
) -> jax.Array:  # f32[B, G]
    """`standardised` with the sample's standard deviation, which divides by G - 1.

    This is what GRPO computes in TRL (whose epsilon is 1e-4) and wherever torch's `std` is called
    as it comes: sqrt((G - 1) / G) of the other. A group of equal rewards gives 0, and so does
    G = 1.
    """
    advantages = centred(rewards)
    G = rewards.shape[-1]
    variance = jnp.sum(jnp.square(advantages), axis=-1, keepdims=True) / max(G - 1, 1)
    return _divided_by_std(advantages, variance, epsilon)


def leave_one_out(
    rewards: jax.Array,  # f32[B, G]
) -> jax.Array:  # f32[B, G]
    """r - mean of the group's other rewards (RLOO, arXiv 2402.14740), = G / (G - 1) `centred`.

    The baseline does not know its sample, so the expected policy gradient is exact. A sample with
    no others has no baseline to be compared with: G = 1 gives 0, not r.
    """
    G = rewards.shape[-1]
    return centred(rewards) * (G / max(G - 1, 1))


def whitened(
    advantages: jax.Array,  # f32[...]
    mask: jax.Array,  # bool[...] True = counts
    *,
    epsilon: float | jax.Array,  # >= 0, in units of the advantage
) -> jax.Array:  # f32[...]
    """(A - mean(A)) / (std(A) + epsilon) over everything the mask keeps, 0 elsewhere.

    For PPO, over the turns of a batch. std divides by the count. Equal advantages give 0. Under a
    mesh the batch is the global one.
    """
    chex.assert_equal_shape([advantages, mask])
    chex.assert_type([advantages, mask], [float, bool])
    # From the first kept one, for `centred`'s reason.
    first = jnp.take(advantages.ravel(), jnp.argmax(mask.ravel()))
    shifted = jnp.where(mask, advantages - first, 0.0)
    deviations = jnp.where(mask, shifted - masked_mean(shifted, mask), 0.0)
    return _divided_by_std(deviations, masked_mean(jnp.square(deviations), mask), epsilon)


def _divided_by_std(deviations, variance, epsilon):
    equal = variance == 0.0  # not `<= 0`: NaN must pass
    std = jnp.sqrt(jnp.where(equal, 1.0, variance))
    return jnp.where(equal, 0.0, deviations / (std + epsilon))
