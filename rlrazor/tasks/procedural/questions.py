"""Draws questions of eight small tasks with their answers, whichever task is asked for.

add 47 38 = 85, subtract 47 38 = 9 (never below zero), larger 47 38 = 47, sort 5 2 9 2 = 2 2 5 9,
reverse c a b = b a c, count a in b a c a = 2, max 3 9 4 = 9, copy c a b = c a b.

Within a task every operand and every list of one length is equally likely, and so is every length,
but for three choices that keep a constant answer from scoring: the larger operand of a subtraction
comes first; every item of a count is made the counted letter by the toss of a coin; the items of a
maximum lie below a ceiling that is itself drawn.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.tasks.procedural import pieces
from rlrazor.tasks.procedural.pieces import (
    BLANK,
    END,
    FIRST_DIGIT,
    FIRST_LETTER,
    FIRST_WORD,
    IN,
    ITEMS,
)

LOWEST_CEILING = 4  # items of a maximum are below it: 0 to 3, or up to 0 to 9
MOST_DIGITS = 4
LONGEST_LIST = 9  # so that a count is one digit


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large questions are."""

    digits: int = 2  # of the largest operand
    shortest: int = 3  # items of a list
    longest: int = 6

    def __post_init__(self):
        for name in ("digits", "shortest", "longest"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name}={getattr(self, name)!r} must be an integer")
        if not 1 <= self.digits <= MOST_DIGITS:
            raise ValueError(f"digits={self.digits} must be 1 to {MOST_DIGITS}")
        if not 2 <= self.shortest <= self.longest <= LONGEST_LIST:
            raise ValueError(
                f"shortest={self.shortest} and longest={self.longest} must be 2 to {LONGEST_LIST} "
                "items, the shortest first"
            )


@struct.dataclass
class Question:
    """Pieces of both sides; padding may stand anywhere and spells nothing."""

    asked: jax.Array  # i32[Q]
    answer: jax.Array  # i32[A]


def asked_pieces(sizes: Sizes) -> int:
    """Q: word, counted letter and "in", list or two numbers, end."""
    return 2 + max(2 * sizes.digits + 1, 2 + 2 * sizes.longest - 1)


def answer_pieces(sizes: Sizes) -> int:
    """A: a sum or a list."""
    return max(sizes.digits + 1, 2 * sizes.longest - 1)


def no_question(sizes: Sizes) -> Question:
    """Nothing asked, in the shapes of `draw_question`."""
    sides = (jnp.zeros(n, jnp.int32) for n in (asked_pieces(sizes), answer_pieces(sizes)))
    return Question(*sides)


def draw_question(
    key: jax.Array,
    task: jax.Array,  # i32[] index into pieces.TASKS
    sizes: Sizes,
) -> Question:
    """One question of a task. All eight are written and one is taken, so that it can be traced."""
    number_key, list_key = jax.random.split(key)
    both = [*_of_numbers(number_key, sizes), *_of_lists(list_key, sizes)]
    asked = [_asked(word, body, sizes) for word, (body, _) in enumerate(both)]
    answers = [_padded(answer, answer_pieces(sizes)) for _, answer in both]
    return Question(jnp.stack(asked)[task], jnp.stack(answers)[task])


Sides = tuple[jax.Array, jax.Array]  # i32[...] pieces of what is asked about, and of the answer


def _below(bits: jax.Array, bound: jax.Array | int) -> jax.Array:  # i32
    """Numbers from 0, as even as makes no difference: 2^32 is so much more than any bound."""
    return (bits % jnp.uint32(bound)).astype(jnp.int32)


def _of_numbers(key: jax.Array, sizes: Sizes) -> list[Sides]:
    """add, subtract, larger."""
    a, b = _below(jax.random.bits(key, (2,)), 10**sizes.digits)
    high, low = jnp.maximum(a, b), jnp.minimum(a, b)

    def sides(first: jax.Array, second: jax.Array, answer: jax.Array) -> Sides:
        first, second = (pieces.number(n, sizes.digits) for n in (first, second))
        body = jnp.concatenate([first, _alone(BLANK), second])
        return body, pieces.number(answer, sizes.digits + 1)

    return [sides(a, b, a + b), sides(high, low, high - low), sides(a, b, high)]


def _of_lists(key: jax.Array, sizes: Sizes) -> list[Sides]:
    """sort, reverse, count, max, copy."""
    N = sizes.longest
    bits = jax.random.bits(key, (3 + 3 * N,))  # drawn at once, which compiles much sooner
    length = sizes.shortest + _below(bits[0], N - sizes.shortest + 1)
    letter = _below(bits[1], ITEMS)
    ceiling = LOWEST_CEILING + _below(bits[2], ITEMS - LOWEST_CEILING + 1)
    item_bits, coin_bits, low_bits = bits[3:].reshape(3, N)

    place = jnp.arange(N)
    counts = place < length
    items = _below(item_bits, ITEMS)
    in_order = jnp.sort(jnp.where(counts, items, ITEMS))  # what does not count comes last
    backwards = items[jnp.maximum(length - 1 - place, 0)]
    strewn = jnp.where(_below(coin_bits, 2) == 1, letter, items)
    found = jnp.sum(counts & (strewn == letter))
    low = _below(low_bits, ceiling)
    highest = jnp.max(jnp.where(counts, low, 0))

    def digits(values: jax.Array) -> jax.Array:
        return pieces.listed(FIRST_DIGIT + values, length)

    def letters(values: jax.Array) -> jax.Array:
        return pieces.listed(FIRST_LETTER + values, length)

    counted = jnp.concatenate([_alone(FIRST_LETTER + letter), _alone(IN), letters(strewn)])
    return [
        (digits(items), digits(in_order)),
        (letters(items), letters(backwards)),
        (counted, _alone(FIRST_DIGIT + found)),
        (digits(low), _alone(FIRST_DIGIT + highest)),
        (letters(items), letters(items)),
    ]


def _asked(word: int, body: jax.Array, sizes: Sizes) -> jax.Array:  # i32[Q]
    whole = jnp.concatenate([_alone(FIRST_WORD + word), body, _alone(END)])
    return _padded(whole, asked_pieces(sizes))


def _alone(piece: jax.Array | int) -> jax.Array:  # i32[1]
    return jnp.full(1, piece, jnp.int32)


def _padded(symbols: jax.Array, size: int) -> jax.Array:
    return jnp.pad(symbols, (0, size - len(symbols)))
