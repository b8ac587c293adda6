"""How the pieces that a task writes with are spelled, as tables for `ops.spelling.spell`.

A task builds its texts on the device as sequences of pieces, small integers that stand for strings.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BEFORE = "="  # some tokenizers add or strip a blank at the very start of a text


def in_bytes(pieces: Sequence[str]) -> tuple[jax.Array, jax.Array]:  # u8[V, M], i32[V]
    """The UTF-8 bytes of each piece, and how many they are."""
    return tabulate([piece.encode() for piece in pieces], np.uint8)


def in_tokens(
    pieces: Sequence[str],
    encode: Callable[[str], Sequence[int]],  # ids of a text inside another
    decode: Callable[[Sequence[int]], str],
) -> tuple[jax.Array, jax.Array]:  # i32[V, M], i32[V]
    """The tokens of each piece, and how many they are.

    Raises ValueError, naming the piece, if its tokens do not decode to the same text when they are
    joined to others: what a task writes is pieces joined.
    """
    return tabulate([_checked(piece, encode, decode) if piece else () for piece in pieces])


def tabulate(
    rows: Sequence[Sequence[int]], dtype: Any = np.int32
) -> tuple[jax.Array, jax.Array]:  # dtype[V, M], i32[V]
    """Ragged rows padded with zeros, and their lengths."""
    lengths = np.array([len(row) for row in rows], np.int32)
    table = np.zeros((len(rows), lengths.max()), dtype)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = list(row)
    return jnp.asarray(table), jnp.asarray(lengths)


def _checked(
    piece: str,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
) -> Sequence[int]:
    try:
        before, code = encode(_BEFORE), encode(piece)
        found = decode([*before, *code, *code])
    except ValueError as error:
        raise ValueError(f"the tokenizer cannot spell {piece!r}: {error}") from error
    if found != _BEFORE + piece * 2:
        raise ValueError(
            f"the tokenizer cannot spell {piece!r}: twice after {_BEFORE!r} it decodes to "
            f"{found!r}; use a vocabulary that has every digit, letter, bracket, operator, quote "
            "and the blank, and an `encode` that adds no blank before the text"
        )
    return code
