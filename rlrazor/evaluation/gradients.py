"""Whether an update helps or hurts the prior task: RL's Razor (arXiv 2509.04259), Figure 10."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.types import Metrics, Params


def update_gradient_alignment(
    update: Params,  # what is added to the weights, learning rate and sign included
    prior_gradient: Params,  # gradient of the prior task's loss at the weights before the update
) -> Metrics:
    """Cosine between an update and the gradient of the prior task's loss, and the norms of both.

    Convention: the update is what is *added*, so a **positive** cosine means that the step raises
    the prior task's loss (to first order, by cosine * update_norm * prior_gradient_norm), and plain
    gradient descent on the prior task itself has cosine -1. The cosine is 0 where a norm is 0.
    """
    chex.assert_trees_all_equal_shapes(update, prior_gradient)
    update_scale, u = _unit_scale(update)
    gradient_scale, g = _unit_scale(prior_gradient)
    u_norm, g_norm = jnp.sqrt(_dot(u, u)), jnp.sqrt(_dot(g, g))
    product = u_norm * g_norm
    cosine = _dot(u, g) / jnp.where(product == 0, 1.0, product)
    return {
        "update_prior_gradient_cosine": jnp.clip(cosine, -1.0, 1.0),  # rounding may pass 1
        "update_norm": update_scale * u_norm,
        "prior_gradient_norm": gradient_scale * g_norm,
    }


def _dot(a: list[jax.Array], b: list[jax.Array]) -> jax.Array:
    return sum((jnp.sum(x * y) for x, y in zip(a, b, strict=True)), start=jnp.float32(0))


def _unit_scale(tree: Params) -> tuple[jax.Array, list[jax.Array]]:
    """The largest entry, and the leaves divided by it, so that squares of tiny ones survive."""
    leaves = [jnp.asarray(leaf, jnp.float32) for leaf in jax.tree.leaves(tree)]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    return largest, [leaf / jnp.where(largest == 0, 1.0, largest) for leaf in leaves]
