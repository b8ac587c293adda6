"""A table of token sequences that share most of their text: stored thriftily, joined on the device.

The prompts of one wording differ in the cards alone, so what they share at the start and at the
end is stored once.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class PromptTable:
    """Tokens of W wordings for K hands: a wording's prefix, a hand's middle, the suffix."""

    prefix: jax.Array  # i32[W, P] all zero padded
    middle: jax.Array  # u16 or i32[W, K, M]
    suffix: jax.Array  # i32[W, S]
    prefix_length: jax.Array  # i32[W]
    middle_length: jax.Array  # i32[W, K]
    suffix_length: jax.Array  # i32[W]
    size: int = struct.field(pytree_node=False)  # of the longest prompt

    def tokens(
        self,
        wording: jax.Array | int,  # i32[] which template
        row: jax.Array | int,  # i32[] which hand, see `hand_row`; 0 if the cards are pictures
    ) -> tuple[jax.Array, jax.Array]:  # i32[size], i32[]
        """One prompt, zero padded, and its length."""
        head, body = self.prefix_length[wording], self.middle_length[wording, row]
        length = head + body + self.suffix_length[wording]
        place = jnp.arange(self.size, dtype=jnp.int32)
        in_body, in_tail = place - head, place - head - body
        tail = _at(self.suffix[wording], in_tail)
        late = jnp.where(in_tail >= 0, tail, _at(self.middle[wording, row], in_body))
        tokens = jnp.where(in_body >= 0, late, _at(self.prefix[wording], place))
        return jnp.where(place < length, tokens, 0), length


def hand_row(ranks: jax.Array) -> jax.Array:  # i32[C] 1 to 13 -> i32[]
    """Where a hand stands in the table: rank - 1 as digits to base 13, the first card foremost."""
    (C,) = ranks.shape
    chex.assert_type(ranks, int)
    powers = np.array([13 ** (C - 1 - i) for i in range(C)], np.int32)
    return jnp.sum((ranks.astype(jnp.int32) - 1) * powers)


@dataclasses.dataclass(frozen=True, eq=False)
class Factored:
    """Sequences of tokens on the host, what they all share at both ends taken out."""

    prefix: np.ndarray  # i32[P]
    middle: np.ndarray  # i32[K, M] zero padded
    lengths: np.ndarray  # i32[K] of the middles
    suffix: np.ndarray  # i32[S]


def factor(batches: Iterable[Sequence[Sequence[int]]]) -> Factored:
    """Takes out what all sequences of all batches share; holds one batch in full at a time."""
    parts: list[Factored] = []
    first: np.ndarray | None = None
    for batch in batches:
        sequences, lengths = _padded(batch)
        if first is None:
            first = sequences[0, : lengths[0]]
        parts.append(_split(sequences, lengths, first))
    P = min(len(part.prefix) for part in parts)
    S = min(len(part.suffix) for part in parts)
    prefix, suffix = parts[0].prefix[:P], parts[0].suffix[len(parts[0].suffix) - S :]
    widened = [_widen(part, P, S) for part in parts]
    M = max(middle.shape[1] for middle, _ in widened)
    middle = np.concatenate([np.pad(m, ((0, 0), (0, M - m.shape[1]))) for m, _ in widened])
    return Factored(prefix, middle, np.concatenate([n for _, n in widened]), suffix)


def stack(wordings: Sequence[Factored]) -> PromptTable:
    """Puts wordings of equally many rows into one table, so that the wording is data."""
    size = max(len(w.prefix) + len(w.suffix) + int(w.lengths.max()) for w in wordings)
    prefix, prefix_length = _padded([w.prefix for w in wordings])
    suffix, suffix_length = _padded([w.suffix for w in wordings])
    M = max(w.middle.shape[1] for w in wordings)
    middle = np.stack([np.pad(w.middle, ((0, 0), (0, M - w.middle.shape[1]))) for w in wordings])
    if middle.max(initial=0) < 2**16:
        middle = middle.astype(np.uint16)  # half the memory where it matters
    return PromptTable(
        prefix=jnp.asarray(prefix),
        middle=jnp.asarray(middle),
        suffix=jnp.asarray(suffix),
        prefix_length=jnp.asarray(prefix_length),
        middle_length=jnp.asarray(np.stack([w.lengths for w in wordings])),
        suffix_length=jnp.asarray(suffix_length),
        size=size,
    )


def _at(units: jax.Array, place: jax.Array) -> jax.Array:
    """units[place] as i32, anything where there is no such place."""
    if units.shape[0] == 0:
        return jnp.zeros(place.shape, jnp.int32)
    return units[jnp.clip(place, 0, units.shape[0] - 1)].astype(jnp.int32)


def _padded(sequences: Sequence[Sequence[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(s) for s in sequences], np.int32)
    out = np.zeros((len(sequences), lengths.max()), np.int32)
    filled = np.arange(out.shape[1]) < lengths[:, None]
    out[filled] = np.fromiter(itertools.chain.from_iterable(sequences), np.int32, lengths.sum())
    return out, lengths


def _split(sequences: np.ndarray, lengths: np.ndarray, first: np.ndarray) -> Factored:
    """Takes out what all rows share with `first` at the start, then, of the rest, at the end."""
    shortest = min(int(lengths.min()), len(first))
    P = int(np.argmin([*(sequences[:, :shortest] == first[:shortest]).all(0), False]))
    room = shortest - P
    places = lengths[:, None] - 1 - np.arange(room)  # from the end backwards
    ends = np.take_along_axis(sequences, places, axis=1)
    S = int(np.argmin([*(ends == first[::-1][:room]).all(0), False]))
    width = int(lengths.max()) - S
    middle = np.where(np.arange(width) < lengths[:, None] - S, sequences[:, :width], 0)
    return Factored(first[:P], middle[:, P:], lengths - P - S, first[len(first) - S :])


def _widen(part: Factored, P: int, S: int) -> tuple[np.ndarray, np.ndarray]:
    """The middles and their lengths as they are when only P and S tokens are shared."""
    head = part.prefix[P:]
    tail = part.suffix[: len(part.suffix) - S]
    K, M = part.middle.shape
    wide = np.zeros((K, len(head) + M + len(tail)), np.int32)
    wide[:, : len(head)] = head
    wide[:, len(head) : len(head) + M] = part.middle
    places = len(head) + part.lengths[:, None] + np.arange(len(tail))
    np.put_along_axis(wide, places, np.broadcast_to(tail, (K, len(tail))), axis=1)
    return wide, part.lengths + len(head) + len(tail)
