"""What a decoder remembers of the tokens it has read: keys and values, rows of any length."""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.models.transformer_config import TransformerConfig


@struct.dataclass
class KVCache:
    """Row b holds its tokens 0 .. filled[b]-1 in slots 0 .. filled[b]-1, without gaps.

    What lies behind them is never attended to, and is overwritten by the next append. Tokens that
    no longer fit are dropped: their keys are stored nowhere and later tokens do not see them.
    `filled` counts them all the same, so `filled > slots` says which rows cannot be trusted.
    """

    # The slots of a head lie together: attention reads them so, and need not copy them first.
    keys: jax.Array  # [L, B, K, S, Dh] rotated already
    values: jax.Array  # [L, B, K, S, Dh]
    filled: jax.Array  # i32[B] tokens read so far

    @property
    def slots(self) -> int:
        return self.keys.shape[3]


def init_cache(
    config: TransformerConfig, rows: int, slots: int, dtype: jax.typing.DTypeLike
) -> KVCache:
    """An empty cache for `rows` sequences of at most `slots` tokens."""
    shape = (config.layers, rows, config.kv_heads, slots, config.head_dim)
    return KVCache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        filled=jnp.zeros((rows,), jnp.int32),
    )


def repeat_rows(cache: KVCache, times: int) -> KVCache:
    """Every row `times` times in a row: prompts are read once, then answered G times."""
    return KVCache(
        keys=jnp.repeat(cache.keys, times, axis=1),
        values=jnp.repeat(cache.values, times, axis=1),
        filled=jnp.repeat(cache.filled, times, axis=0),
    )


def write(
    stored: jax.Array,  # [L, B, K, S, Dh]
    new: jax.Array,  # [B, T, K, Dh]
    layer: jax.Array,  # i32[]
    slots: jax.Array,  # i32[B, T] distinct within a row; S and beyond are dropped
) -> jax.Array:  # [L, B, K, S, Dh]
    """Puts each new token into its slot of one layer, in place where XLA can.

    `stored.at[layer, rows, :, slots].set(new)`, but rows are named as what never meets: of rows
    that are indices, a compiler for several devices would gather all, at every token.
    """
    chex.assert_equal_shape_prefix([new, slots], 2)
    where = jnp.stack([jnp.broadcast_to(layer, slots.shape), slots], axis=-1)
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(2, 3),
        inserted_window_dims=(0, 3),
        scatter_dims_to_operand_dims=(0, 3),
        operand_batching_dims=(1,),
        scatter_indices_batching_dims=(0,),
    )
    return jax.lax.scatter(
        stored, where, new.astype(stored.dtype), numbers, mode="drop", unique_indices=True
    )
