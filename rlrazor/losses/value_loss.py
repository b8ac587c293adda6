"""PPO's loss for the critic: squared error, with the step clipped."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean
from rlrazor.types import Metrics


def value_loss(
    values: jax.Array,  # f32[B, K] V now, of K turns (or of tokens)
    behaviour_values: jax.Array,  # f32[B, K] V when the turns were played; constants
    targets: jax.Array,  # f32[B, K] such as advantages + values of `ops.returns.gae`; constants
    mask: jax.Array,  # bool[B, K] turns that were played
    *,
    clip: float | jax.Array,  # how far V may profit from moving; jnp.inf = plain squared error
) -> tuple[jax.Array, Metrics]:
    """1/2 max((V - G)^2, (V_old + clip(V - V_old, -c, c) - G)^2), averaged over the kept turns.

    The gradient is V - G, or 0 where V has moved by more than c and is nearer to G than V_old moved
    by c would be. The metric `squared_error` is the sum of (V - G)^2 over `turns`.
    """
    chex.assert_rank(values, 2)
    chex.assert_equal_shape([values, behaviour_values, targets, mask])
    chex.assert_type([values, behaviour_values, targets], jnp.float32)
    chex.assert_type(mask, bool)
    V = jnp.where(mask, values, 0.0)
    V_old = jnp.where(mask, jax.lax.stop_gradient(behaviour_values), 0.0)
    G = jnp.where(mask, jax.lax.stop_gradient(targets), 0.0)
    V_clipped = V_old + jnp.clip(V - V_old, -clip, clip)
    free, held = jnp.square(V - G), jnp.square(V_clipped - G)
    # Not jnp.maximum, which would halve the gradient where V has not moved and the two are equal.
    worse = jnp.where(held > free, held, free)
    return 0.5 * masked_mean(worse, mask), {
        "turns": jnp.sum(mask),
        "squared_error": jnp.sum(free),
        "clipped": jnp.sum((held > free) & (jnp.abs(V - V_old) > clip)),
    }
