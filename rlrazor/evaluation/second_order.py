"""What second-order theory says of a step: the divergence that the whole Fisher matrix predicts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.types import Params


def second_order_kl(
    logits: Callable[[Params], jax.Array],  # params -> f32[..., V]
    params: Params,
    step: Params,  # of the shape of params
) -> jax.Array:  # f32[...] nats
    """0.5 step^T F step of each distribution: KL(p || p') and KL(p' || p) to second order.

    F = J^T (diag p - p p^T) J is the Fisher matrix of one input, J the Jacobian of its logits, so
    the prediction is 0.5 Var_p(J step): one forward-mode derivative, and no matrix. The diagonal
    of F alone, as in `evaluation.fisher`, leaves out how weights act together.
    """
    at, change = jax.jvp(logits, (params,), (step,))
    probabilities = jax.nn.softmax(at.astype(jnp.float32), axis=-1)
    change = change.astype(jnp.float32)
    centred = change - jnp.sum(probabilities * change, axis=-1, keepdims=True)
    return 0.5 * jnp.sum(probabilities * jnp.square(centred), axis=-1)


def plus(params: Params, step: Params, scale: Any) -> Params:
    """params + scale step."""
    return jax.tree.map(lambda leaf, change: leaf + scale * change, params, step)
