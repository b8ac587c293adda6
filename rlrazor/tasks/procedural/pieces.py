"""Questions and answers as sequences of pieces: small integers that stand for strings.

Numbers are written digit by digit and lists item by item, in plain order: one symbol a digit is
what lets a small model see how an answer is made of its question, where whole numbers would be
hundreds of unrelated symbols. A tokenizer that merges digits would spell the same text shorter;
these pieces decode to it all the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.tasks import spelled
from rlrazor.types import Vocabulary

TASKS = ("add", "subtract", "larger", "sort", "reverse", "count", "max", "copy")
ITEMS = 10  # kinds of list items: the digits, or as many letters
LETTERS = "abcdefghij"

PADDING = 0  # spells nothing, wherever it stands
FIRST_DIGIT = 1  # + the digit
FIRST_LETTER = 11  # + its place in the alphabet
BLANK, IN, END = 21, 22, 23
FIRST_WORD = 24  # + index into TASKS

PIECES: tuple[str, ...] = (
    "",
    *(str(digit) for digit in range(10)),
    *LETTERS,
    " ",
    " in ",
    " =",
    *(f"{task} " for task in TASKS),
)


def procedural_phrases() -> list[str]:
    """Phrases that make single symbols of a closed vocabulary.

    Digits, letters and the blank are characters of it anyway.
    """
    return [piece for piece in PIECES if len(piece) > 1]


def number(
    value: jax.Array,  # i32[] not negative
    digits: int,  # at most
) -> jax.Array:  # i32[digits] pieces, padding for zeros in front
    """A number in decimal, the highest digit first."""
    place = jnp.asarray(10 ** np.arange(digits - 1, -1, -1), jnp.int32)
    written = (value >= place) | (place == 1)
    return jnp.where(written, FIRST_DIGIT + value // place % 10, PADDING)


def listed(
    items: jax.Array,  # i32[N] pieces
    length: jax.Array,  # i32[] items that count, the first ones
) -> jax.Array:  # i32[2 N - 1] pieces
    """The items with a blank between any two."""
    place = jnp.arange(len(items))
    blanks = jnp.where(place < length - 1, BLANK, PADDING)
    items = jnp.where(place < length, items, PADDING)
    return jnp.stack([items, blanks], axis=-1).reshape(-1)[:-1].astype(jnp.int32)


def piece_table(vocabulary: Vocabulary) -> tuple[jax.Array, jax.Array]:  # i32[V, M], i32[V]
    """How each piece is spelled in tokens; ValueError if one cannot be."""
    return spelled.in_tokens(PIECES, vocabulary.encode_inside, vocabulary.decode)


def byte_table() -> tuple[jax.Array, jax.Array]:  # u8[V, M], i32[V]
    """How each piece is spelled in bytes."""
    return spelled.in_bytes(PIECES)
