"""Some tokens at a time, so that what is wide, such as [B, T, V], is never whole in memory."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp


def in_chunks(
    fn: Callable[..., Any],
    *arrays: jax.Array,  # [B, T, ...] each
    size: int,  # tokens of a row in a chunk; the last one is padded with zeros
) -> Any:  # tree of [B, T, ...]
    """fn(*arrays), of chunks [B, size, ...] one after the other; a token's result is its own.

    What fn computes on the way is not kept for the gradient, but computed again; rows that are one
    chunk are spared that. Rows are not cut, so that they may lie on different devices.
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1, the tokens of a row in a chunk")
    chex.assert_equal_shape_prefix(arrays, 2)
    B, T = arrays[0].shape[:2]
    if size >= T:
        return fn(*arrays)
    count = -(-T // size)

    def cut(x: jax.Array) -> jax.Array:
        pads = [(0, 0), (0, count * size - T)] + [(0, 0)] * (x.ndim - 2)
        return jnp.moveaxis(jnp.pad(x, pads).reshape(B, count, size, *x.shape[2:]), 1, 0)

    def join(y: jax.Array) -> jax.Array:
        return jnp.moveaxis(y, 0, 1).reshape(B, count * size, *y.shape[3:])[:, :T]

    again = jax.checkpoint(lambda chunk: fn(*chunk), prevent_cse=False)
    return jax.tree.map(join, jax.lax.map(again, tuple(map(cut, arrays))))
