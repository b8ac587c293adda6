"""From symbols to what they spell: pieces to bytes, pieces to tokens, tokens to bytes."""

import chex
import jax
import jax.numpy as jnp


def spell(
    symbols: jax.Array,  # i32[N] outside 0..V-1 they are clipped into it
    table: jax.Array,  # [V, M] row s starts with the `lengths[s]` units that symbol s spells
    lengths: jax.Array,  # i32[V] 0 spells nothing
    size: int,
    count: jax.Array | None = None,  # i32[] symbols that are real, the first ones; None: all
) -> tuple[jax.Array, jax.Array]:  # [size] of the table's dtype, i32[]
    """Joins the spellings of all symbols, left-justified, padded with zeros, cut at `size`.

    The second result is the length after the cut. A length beyond M counts as M.
    """
    chex.assert_rank([symbols, table, lengths], [1, 2, 1])
    (N,) = symbols.shape
    V, M = table.shape
    chex.assert_shape(lengths, (V,))
    if N == 0 or V == 0 or M == 0 or size == 0:
        return jnp.zeros(size, table.dtype), jnp.zeros((), jnp.int32)
    symbols = jnp.clip(symbols, 0, V - 1)
    widths = jnp.clip(lengths.astype(jnp.int32), 0, M)[symbols]
    if count is not None:
        widths = jnp.where(jnp.arange(N) < count, widths, 0)
    ends = jnp.cumsum(widths)
    place = jnp.arange(size, dtype=jnp.int32)
    # The symbol that a place belongs to is the first that ends beyond it; the ones that spell
    # nothing end where they start, so no place is theirs. Unrolled: no loop within a vmapped scan.
    owner = jnp.searchsorted(ends, place, side="right", method="scan_unrolled")
    owner = jnp.minimum(owner.astype(jnp.int32), N - 1)
    within = jnp.clip(place - (ends - widths)[owner], 0, M - 1)
    units = table[symbols[owner], within]
    length = jnp.minimum(ends[-1], size)
    return jnp.where(place < length, units, jnp.zeros((), table.dtype)), length
