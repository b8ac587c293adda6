"""The exact judge of an answer to GeneralPoints, on bytes and on the device.

An answer is text that holds a JSON object with a formula, as in
`{"cards": ["8", "3", "8", "3"], "number": [8, 3, 8, 3], "formula": "8/(3-8/3)=24"}`. Precisely:

- **Object.** An object begins at every `{` that a double quote follows, white space between or not,
  and ends where its own `}` stands, before the next one begins. The last object that can be read
  counts; what stands outside it does not, however long it is and whatever braces it has.
- **White space** (space, tab, line feed, carriage return) is free between tokens. A comma may
  follow the last field and the last item of a list.
- **Fields** come in any order, keys in double quotes. Of two with one name the later counts.
  "formula" must be there, a string. "cards" and "number" (or "numbers") may lack or be no lists:
  then nothing was read. Any other field is skipped: a string, a word such as a number, true or
  null, or a list of these, at most three lists deep. A string is anything between double quotes, a
  backslash shields the character behind it; a word has no white space, quote, bracket or comma.
- **Cards** are items in double, single or no quotes: A or 1, 2 ... 10 or T, J, Q, K, perhaps with
  the letter or the sign of a suit right behind; Ace, Jack, Queen, King; within quotes also with a
  suit as in "K of spades". Small and capital letters are the same, and the suit is not judged.
- **Numbers** are items likewise: integers without sign or leading zero, perhaps with `.0` behind.
- An item that is no card, or no number, is a misreading, or a mistranslation, and no more.
- **Formula.** Integers joined by + - * / and brackets, nested at most `reader.DEEPEST` deep, then,
  if one likes, `=` and an integer. There is no unary sign; an integer with a leading zero is
  illegal. `*` and `/` bind tighter, equals associate to the left, arithmetic is exact. A division
  by zero has no value, so it is a wrong value. An integer after `=` must be the target: `=24` says
  what the formula is worth, and `=99` says it wrongly.
- **Signs.** In the formula `\u00d7 \u00b7 \u22c5 \u2217 x X \\times \\cdot \\ast` are `*`,
  `\u00f7 \u2215 \\div` are `/`, `\u2212` and the en dash are `-`, and spaces that do not break are
  spaces. JSON's escapes of these and of the ASCII symbols are read (`\\/`, `\\u00d7`), no others.

Refused, as malformed: an object that holds another one, a list within "cards" or "number",
comments, keys in single or no quotes or in capitals, a formula in single quotes, an object without
its `}`. As illegal: `==`, `=24.0`, `24=...`, words, `[ ]` and `{ }` as brackets, `$...$`, decimal
points, `**`, full-width digits, letters of cards, escaped digits.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.tasks.general_points.rational import combine, equals
from rlrazor.tasks.general_points.reader import COMPLETE, FOREIGN, LEADING_ZERO, Reading, read

FAILURES = (
    "no_object",
    "malformed_field",
    "illegal_formula",
    "number_not_on_cards",
    "card_reused",
    "card_unused",
    "wrong_value",
    "cards_misread",
    "numbers_mistranslated",
)


@struct.dataclass
class Findings:
    """All that judging one answer found out; `rewards` turns it into a number.

    The formula is looked at only in a well-formed object, the use of the cards only in a legal
    formula, its value only if it uses every card once. Misreading the cards, or their worth, does
    not make a right formula wrong: these two are flags beside `correct`.
    """

    failures: dict[str, jax.Array]  # bool[] one flag for each of FAILURES
    correct: jax.Array  # bool[] the formula is right: none of the first seven failures
    reading: Reading
    held: jax.Array  # i32[C] how often the hand holds each of its numbers
    left_sizes: jax.Array  # i32[C - 1] integers in the left operand of each operator
    solves: jax.Array  # bool[] the left side's exact value is the target


def verify(
    text: jax.Array,  # u8[T] the answer; zeros after its end
    ranks: jax.Array,  # i32[C] the hand: 1 is an ace, 11 to 13 are J, Q, K
    values: jax.Array,  # i32[13] what A, 2, ..., K are worth under the rule
    target: jax.Array,  # i32[]
) -> Findings:
    """Judges one answer; never raises: bad input is a verdict, not an error."""
    chex.assert_rank([ranks, values], 1)
    chex.assert_shape(target, ())
    (C,) = ranks.shape
    hand = values[ranks - 1]
    answer = read(text, hand)
    legal = (
        answer.well_formed
        & (answer.flags & (COMPLETE | LEADING_ZERO | FOREIGN) == COMPLETE)
        & (answer.violations == 0)
        & (answer.unclosed == 0)
        & ((answer.right == 0) | (answer.right == 2))
    )
    held = jnp.sum(hand[:, None] == hand[None], axis=1)
    reused, unused = jnp.any(answer.used > held), jnp.any(answer.used < held)
    used_once = ~(answer.stranger | reused | unused)

    value, left_sizes = evaluate(answer.literals, answer.operators, answer.tightness)
    solves = equals(value, target)
    claims_otherwise = (answer.right == 2) & (answer.right_side != target)

    # Numbers are held against the cards that the answer itself lists: translation apart from
    # reading. Order is free.
    listed = values[jnp.maximum(answer.cards, 1) - 1]
    misread = answer.unknown_card | (answer.card_count != C) | ~_same_multiset(answer.cards, ranks)
    complete_lists = (answer.card_count == C) & (answer.number_count == C)
    unknown = answer.unknown_card | answer.unknown_number
    mistranslated = unknown | ~complete_lists | ~_same_multiset(answer.numbers, listed)

    failures = {
        "no_object": ~answer.found,
        "malformed_field": answer.found & ~answer.well_formed,
        "illegal_formula": answer.well_formed & ~legal,
        "number_not_on_cards": legal & answer.stranger,
        "card_reused": legal & reused,
        "card_unused": legal & unused,
        "wrong_value": legal & used_once & (~solves | claims_otherwise),
        "cards_misread": answer.well_formed & misread,
        "numbers_mistranslated": answer.well_formed & mistranslated,
    }
    correct = legal & used_once & solves & ~claims_otherwise
    return Findings(failures, correct, answer, held, left_sizes, solves)


def evaluate(
    numbers: jax.Array,  # i32[C]
    operators: jax.Array,  # i32[C - 1]
    tightness: jax.Array,  # i32[C - 1] the tightest operator acts first, of equals the left one
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Exact value as a fraction, and i32[C - 1] how many integers each operator has on its left."""
    # Lists of scalars, not arrays: nothing is indexed by data, so a batch of them is elementwise.
    tops, bottoms = list(numbers), [jnp.ones_like(number) for number in numbers]
    sizes = [jnp.ones_like(number) for number in numbers]
    codes, tight = list(operators), list(tightness)
    names = [jnp.full_like(code, name) for name, code in enumerate(codes)]
    left_sizes = [jnp.zeros_like(code) for code in codes]
    while codes:
        first, tightest = jnp.int32(0), tight[0]
        for place in range(1, len(codes)):
            first = jnp.where(tight[place] > tightest, place, first)
            tightest = jnp.maximum(tightest, tight[place])
        acting = _at(names, first)
        left_sizes = [
            jnp.where(acting == name, _at(sizes, first), size)
            for name, size in enumerate(left_sizes)
        ]
        top, bottom = combine(
            (_at(tops, first), _at(bottoms, first)),
            (_at(tops, first + 1), _at(bottoms, first + 1)),
            _at(codes, first),
        )
        size = _at(sizes, first) + _at(sizes, first + 1)
        tops, bottoms, sizes = (
            _replace(_without(items, first), first, merged)
            for items, merged in ((tops, top), (bottoms, bottom), (sizes, size))
        )
        codes, tight, names = (_without(items, first) for items in (codes, tight, names))
    return (tops[0], bottoms[0]), jnp.stack(left_sizes)


def _at(items: list[jax.Array], place: jax.Array) -> jax.Array:
    return sum(jnp.where(place == p, item, 0) for p, item in enumerate(items))  # type: ignore


def _without(items: list[jax.Array], place: jax.Array) -> list[jax.Array]:
    pairs = itertools.pairwise(items)
    return [jnp.where(p < place, item, following) for p, (item, following) in enumerate(pairs)]


def _replace(items: list[jax.Array], place: jax.Array, new: jax.Array) -> list[jax.Array]:
    return [jnp.where(p == place, new, item) for p, item in enumerate(items)]


def _same_multiset(
    left: jax.Array,  # i32[C]
    right: jax.Array,  # i32[C]
) -> jax.Array:  # bool[]
    """Every item of one is in both equally often; enough, as both hold C."""
    in_left = jnp.sum(left[:, None] == left[None], axis=1)
    in_right = jnp.sum(left[:, None] == right[None], axis=1)
    return jnp.all(in_left == in_right)
