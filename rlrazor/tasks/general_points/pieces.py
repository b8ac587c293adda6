"""Answers built on the device, as sequences of pieces: small integers that stand for strings.

One table spells them as bytes, for the verifier; another as the tokens of any vocabulary, for a
model that learns from them.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.tasks import spelled
from rlrazor.tasks.general_points.rational import OPERATORS
from rlrazor.tasks.general_points.rule import RANKS, Rule

LARGEST_NUMBER = 1023
PADDING = 0  # spells nothing, wherever it stands
FIRST_OPERATOR = 1  # + code, in the order of rational.OPERATORS
OPEN, CLOSE, EQUALS = 5, 6, 7
FIRST_RANK = 8  # + rank - 1, with the quotes of JSON
CARDS, NUMBER, FORMULA, END, COMMA = 21, 22, 23, 24, 25
FIRST_NUMBER = 32  # + the number itself; the ids between are kept free and spell nothing

PIECES: tuple[str, ...] = (
    "",
    *OPERATORS,
    "(",
    ")",
    "=",
    *(f'"{rank}"' for rank in RANKS),
    '{"cards": [',
    '], "number": [',
    '], "formula": "',
    '"}',
    ", ",
    *[""] * (FIRST_NUMBER - COMMA - 1),
    *(str(n) for n in range(LARGEST_NUMBER + 1)),
)


def expert_answer(
    ranks: jax.Array,  # i32[C] 1 = A, 11 = J, 12 = Q, 13 = K
    numbers: jax.Array,  # i32[C] what the cards are worth
    formula: jax.Array,  # i32[L] pieces, without "=" and what follows; padding may stand anywhere
    target: jax.Array,  # i32[]
) -> jax.Array:  # i32[4 C + L + 4] pieces
    """The whole answer: `{"cards": ["A", "8"], "number": [1, 8], "formula": "8*1=8"}`.

    A target above LARGEST_NUMBER has no piece: see `check_target`.
    """
    (C,) = ranks.shape
    chex.assert_shape(numbers, (C,))
    chex.assert_rank([formula, target], [1, 0])
    chex.assert_type([ranks, numbers, formula, target], int)

    def alone(piece: int) -> jax.Array:
        return jnp.full(1, piece, jnp.int32)

    def listed(pieces: jax.Array) -> jax.Array:  # i32[2 C - 1], a comma between any two
        commas = jnp.full(C, COMMA, jnp.int32)
        return jnp.stack([pieces.astype(jnp.int32), commas], -1).reshape(2 * C)[:-1]

    parts = (
        alone(CARDS),
        listed(FIRST_RANK - 1 + ranks),
        alone(NUMBER),
        listed(FIRST_NUMBER + numbers),
        alone(FORMULA),
        formula.astype(jnp.int32),
        alone(EQUALS),
        jnp.expand_dims(FIRST_NUMBER + target, 0).astype(jnp.int32),
        alone(END),
    )
    return jnp.concatenate(parts)


def without_reading(answer: jax.Array, cards: int) -> jax.Array:  # i32[...] pieces, both
    """An expert's answer with both lists left empty: the formula without the steps before it."""
    size = 2 * cards - 1  # of a list
    place = np.arange(len(answer))
    listed = (place >= 1) & (place < 2 + 2 * size) & (place != 1 + size)
    return jnp.where(listed, PADDING, answer)


def check_target(rule: Rule) -> None:
    """Raises ValueError if no piece stands for the rule's target; its values are smaller."""
    if rule.target > LARGEST_NUMBER:
        raise ValueError(
            f"target={rule.target} cannot stand in an answer built here; choose one up to "
            f"{LARGEST_NUMBER}"
        )


def piece_table(
    encode: Callable[[str], Sequence[int]],  # ids of a text inside another
    decode: Callable[[Sequence[int]], str],
) -> tuple[jax.Array, jax.Array]:  # i32[V, M], i32[V]
    """How each piece is spelled in tokens; ValueError, naming it, if one cannot be."""
    return spelled.in_tokens(PIECES, encode, decode)


def longest_answer(lengths: jax.Array, rule: Rule) -> int:
    """Units of the longest answer that `expert_answer` gives under a rule, by its pieces' table."""
    of, C = np.asarray(lengths), rule.cards
    number = max(int(of[FIRST_NUMBER + value]) for value in rule.values)
    rank = int(of[FIRST_RANK : FIRST_RANK + len(RANKS)].max())
    skeleton = int(of[[CARDS, NUMBER, FORMULA, EQUALS, END, FIRST_NUMBER + rule.target]].sum())
    operator = int(of[FIRST_OPERATOR : FIRST_OPERATOR + len(OPERATORS)].max())
    bracket = int(of[[OPEN, CLOSE]].sum())
    lists = C * (rank + number) + 2 * (C - 1) * int(of[COMMA])
    return skeleton + lists + C * number + (C - 1) * operator + (C - 2) * bracket


def byte_table() -> tuple[jax.Array, jax.Array]:  # u8[V, M], i32[V]
    """How each piece is spelled in bytes."""
    return spelled.in_bytes(PIECES)
