"""Feedback that gives part of a solution away, as the released code's does.

When a legal formula misses the target, its longest beginning that also begins a solution is named.
Solutions here are all formulas with minimal brackets; the released code's own list holds some
others.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.ops.spelling import spell
from rlrazor.tasks.general_points.feedback import as_turn
from rlrazor.tasks.general_points.pieces import FIRST_NUMBER, PIECES
from rlrazor.tasks.general_points.reader import formula_tokens
from rlrazor.tasks.general_points.solver import solutions
from rlrazor.tasks.general_points.trees import trees
from rlrazor.types import Vocabulary

BEFORE = "You failed this trial because your formula does not equal the target, although '"
AFTER = "' begins a solution."
_GAP = "\0"


@struct.dataclass
class LeakTable:
    """The tokens of every piece, and below them those of the words before and after."""

    tokens: jax.Array  # i32[V + 2, M]
    lengths: jax.Array  # i32[V + 2]


def leak_table(
    piece_tokens: tuple[jax.Array, jax.Array],  # i32[V, M], i32[V]
    vocabulary: Vocabulary,
    before: str = BEFORE,
    after: str = AFTER,
) -> LeakTable:
    """Tokenises the words around what is given away; ValueError if they merge with it."""
    tokens, lengths = (np.asarray(part) for part in piece_tokens)
    said = as_turn(before + _GAP + after)
    if vocabulary.encode_reply is None:
        words = [vocabulary.encode_inside(part) for part in said.split(_GAP)]
    else:
        words = _split(vocabulary.encode_reply(said), vocabulary.encode_inside(_GAP))
    width = max(tokens.shape[1], *(len(ids) for ids in words))
    table = np.zeros((len(PIECES) + 2, width), np.int32)
    table[: len(PIECES), : tokens.shape[1]] = tokens
    for row, ids in zip(table[len(PIECES) :], words, strict=True):
        row[: len(ids)] = ids
    return LeakTable(
        jnp.asarray(table), jnp.asarray([*lengths, *(len(ids) for ids in words)], jnp.int32)
    )


def _split(ids: Sequence[int], gap: Sequence[int]) -> list[Sequence[int]]:
    """What stands in a whole turn before and after its gap."""
    n = len(gap)
    places = [i for i in range(len(ids)) if list(ids[i : i + n]) == list(gap)]
    if len(places) != 1:
        raise ValueError(
            "the tokenizer merges what is given away with the words around it; use leak=False"
        )
    return [ids[: places[0]], ids[places[0] + n :]]


def longest_beginning(
    text: jax.Array,  # u8[T] the answer
    hand: jax.Array,  # i32[C] the numbers on the cards
    target: jax.Array,  # i32[]
) -> jax.Array:  # i32[4 C - 5] pieces, zero padded
    """The formula's longest beginning, token by token, that also begins a solution of the hand."""
    tables = trees(len(hand))
    size = tables.formulas.shape[-1]
    said = formula_tokens(text, size)
    alive = solutions(hand, target)  # bool[P, S, K]
    ordered = hand[jnp.asarray(tables.permutations)]
    kept = []
    for place in range(size):
        template = tables.formulas[:, :, place]
        leaf = np.maximum(-1 - template, 0)
        numbers = FIRST_NUMBER + ordered[:, leaf]
        stands = jnp.where(template[None] < 0, numbers, template[None])
        alive &= (stands == said[place]) & (said[place] > 0)
        kept.append(jnp.where(jnp.any(alive), said[place], 0))
    return jnp.stack(kept)


def leaking_words(
    text: jax.Array,  # u8[T]
    hand: jax.Array,  # i32[C]
    target: jax.Array,  # i32[]
    table: LeakTable,
    size: int,
) -> tuple[jax.Array, jax.Array]:  # i32[size], i32[]; the length is 0 if nothing begins a solution
    """The words that name the longest beginning, as tokens."""
    beginning = longest_beginning(text, hand, target)
    before, after = jnp.full((2, 1), len(PIECES), jnp.int32) + jnp.arange(2)[:, None]
    tokens, length = spell(
        jnp.concatenate([before, beginning, after]), table.tokens, table.lengths, size
    )
    return tokens, jnp.where(beginning[0] > 0, length, 0)


def longest_words(table: LeakTable, cards: int) -> int:
    """Tokens of the longest words that the table can give for a hand."""
    lengths = np.asarray(table.lengths)
    size = trees(cards).formulas.shape[-1]
    return int(lengths[-2:].sum() + size * lengths[:-2].max())
