"""Reads the bytes of an answer into registers for all that the judge asks about.

What an answer may look like is said in `verifier`. A first pass turns each byte into an event, with
the state of the grammar's automaton, an integer and a bracket counter; a second puts the events
into a few registers of fixed size. So work and memory depend on the length of the text alone:
hostile text costs what any text costs. Registers are packed into words and nothing is indexed by
data, because these passes are most of a verdict's time.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.tasks.general_points import grammar, pieces
from rlrazor.tasks.general_points.rational import OPERATORS
from rlrazor.tasks.general_points.rule import LARGEST_INTEGER, LARGEST_VALUE

LONGEST_TEXT = 1023  # bytes: brackets are counted in ten bits
MANY = 7  # lists are counted up to here

# What a byte is, as bits of one word: its class for the automaton, then these.
_CLASS = 2**6 - 1
_NUMBER_AT, _NUMBER = 6, 15  # a digit's worth, an operator's code
_RANK_AT, _RANK = 10, 15  # of the card that ends with this byte
(_DIGIT, _OPERATOR, _OPEN, _CLOSE, _EQUALS, _BLANK, _FOREIGN, _COLON, _AFTER_DIGIT, _ENDS) = (
    1 << bit for bit in range(14, 24)
)

# Events: the kind in four bits, the place in its list in three, above them what the kind holds.
_NOTHING, _CARD, _INTEGER, _LITERAL, _OPERATION, _OPENING, _CLOSING = range(7)
_PLACE_AT, _PLACE, _PAYLOAD_AT = 4, 7, 7

# Flags of the formula.
COMPLETE, LEADING_ZERO, BLANKS, FOREIGN = 1, 2, 4, 8


@struct.dataclass
class Reading:
    """What one answer says. Lists hold their first C items, and count on up to MANY."""

    found: jax.Array  # bool[] there is an object
    well_formed: jax.Array  # bool[] and its fields are as they should be
    cards: jax.Array  # i32[C] ranks in the field "cards", 0 where there are fewer
    card_count: jax.Array  # i32[]
    numbers: jax.Array  # i32[C] worths in the field "number", at most LARGEST_VALUE + 1
    number_count: jax.Array  # i32[]
    literals: jax.Array  # i32[C] integers of the formula, left of `=`, likewise
    used: jax.Array  # i32[C] how often the formula holds each number of the hand
    stranger: jax.Array  # bool[] the formula holds an integer that is on no card
    operators: jax.Array  # i32[C - 1] codes of the formula's first operators
    tightness: jax.Array  # i32[C - 1] the tighter of two neighbours acts first
    flags: jax.Array  # i32[] COMPLETE, LEADING_ZERO, BLANKS and FOREIGN, of the left side
    unclosed: jax.Array  # i32[] brackets still open where the left side ends
    violations: jax.Array  # i32[] tokens of the left side that cannot stand where they do
    right: jax.Array  # i32[] 0: no `=`; 1: nothing behind it; 2: one integer; 3: anything else
    right_side: jax.Array  # i32[] that integer
    brackets: jax.Array  # i32[2, 3] opening and closing: how many, literals before the first two


@struct.dataclass
class _Lexer:
    state: jax.Array  # i32[] of the automaton
    integer: jax.Array  # i32[] worth of the digits just before
    place: jax.Array  # i32[] items of the current list so far
    flags: jax.Array  # i32[]
    depth: jax.Array  # i32[]
    violations: jax.Array  # i32[]
    right: jax.Array  # i32[]
    right_side: jax.Array  # i32[]


@functools.cache
def _byte_table() -> np.ndarray:  # i32[256]
    table = np.full(256, _FOREIGN, np.int32)
    for digit in range(10):
        table[ord("0") + digit] = _DIGIT | digit << _NUMBER_AT | digit << _RANK_AT
    table[ord("0")] |= 10 << _RANK_AT  # the second byte of a ten; no card ends with another 0
    for rank, symbol in ((1, "A"), (11, "J"), (12, "Q"), (13, "K")):
        table[ord(symbol)] |= rank << _RANK_AT
    for code, symbol in enumerate(OPERATORS):
        table[ord(symbol)] = _OPERATOR | code << _NUMBER_AT
    for symbol, bit in zip("()=:", (_OPEN, _CLOSE, _EQUALS, _COLON | _FOREIGN), strict=True):
        table[ord(symbol)] = bit
    for symbol in grammar.BLANKS:
        table[ord(symbol)] = _BLANK
    return table | grammar.byte_classes()


def last_object(
    text: jax.Array,  # u8[T]
) -> tuple[jax.Array, jax.Array]:  # bool[T] strictly inside the last complete object, bool[] any
    """A `{` always begins an object and a `}` always ends one, wherever they stand."""
    (T,) = text.shape
    at = jnp.arange(T)
    is_open, is_close = text == ord("{"), text == ord("}")
    last_close = jnp.max(jnp.where(is_close, at, -1))
    start = jnp.max(jnp.where(is_open & (at < last_close), at, -1))
    end = jnp.min(jnp.where(is_close & (at > start), at, T))
    found = start >= 0
    return found & (at > start) & (at < end), found


def read(
    text: jax.Array,  # u8[T] zeros after the end, which count as any other byte outside
    hand: jax.Array,  # i32[C] the numbers on the cards
) -> Reading:
    """Reads one answer. T is static and at most LONGEST_TEXT."""
    chex.assert_rank([text, hand], 1)
    chex.assert_type(text, jnp.uint8)
    (T,), (C,) = text.shape, hand.shape
    if not 0 < T <= LONGEST_TEXT:
        raise ValueError(
            f"answers of {T} bytes cannot be judged; give each row 1 to {LONGEST_TEXT} bytes"
        )
    lexer, events, found = _lex_all(text)
    # A pass of its own: in one loop, the compiler would derive each event anew for each register.
    registers, _ = jax.lax.scan(
        functools.partial(_collect, tuple(hand)), _Registers.empty(), events
    )
    _, _, accepting = grammar.automaton()
    accepted = functools.reduce(jnp.logical_or, [lexer.state == s for s in sorted(accepting)])
    binding = _unpack(registers.operators, _OPERATOR_BITS, C - 1)
    return Reading(
        found=found,
        well_formed=found & accepted,
        cards=_unpack(registers.cards, _CARD_BITS, C),
        card_count=registers.counts & MANY,
        numbers=_unpack(registers.numbers, _VALUE_BITS, C),
        number_count=registers.counts >> 3 & MANY,
        literals=_unpack(registers.literals, _VALUE_BITS, C),
        used=_unpack((registers.used,), _COUNT_BITS, C),
        stranger=registers.stranger > 0,
        operators=binding & 3,
        tightness=binding >> 2,
        flags=lexer.flags,
        unclosed=lexer.depth,
        violations=lexer.violations,
        right=lexer.right,
        right_side=lexer.right_side,
        brackets=jnp.stack([_unpack((word,), 3, 3) for word in registers.brackets]),
    )


def formula_tokens(
    text: jax.Array,  # u8[T]
    size: int,
) -> jax.Array:  # i32[size] pieces, zero padded
    """The first tokens of the formula's left side, as far as it has legal ones."""
    _, events, _ = _lex_all(text)
    kind, payload = events & (2**_PLACE_AT - 1), events >> _PAYLOAD_AT
    piece = jnp.where(kind == _OPENING, pieces.OPEN, jnp.where(kind == _CLOSING, pieces.CLOSE, 0))
    piece = jnp.where(kind == _OPERATION, pieces.FIRST_OPERATOR + (payload & 3), piece)
    number = pieces.FIRST_NUMBER + jnp.minimum(payload, pieces.LARGEST_NUMBER)
    piece = jnp.where(kind == _LITERAL, number, piece)
    place = jnp.cumsum(piece > 0) - 1
    return jnp.stack([jnp.sum(jnp.where(place == p, piece, 0)) for p in range(size)])


def _lex_all(text: jax.Array) -> tuple[_Lexer, jax.Array, jax.Array]:  # i32[T] events, bool[]
    table, start, _ = grammar.automaton()
    inside, found = last_object(text)
    info = jnp.asarray(_byte_table())[text]
    info = jnp.where(inside, info, info & ~_CLASS | grammar.OUTSIDE)
    digit = (info & _DIGIT) > 0
    no = jnp.zeros(1, bool)
    info += jnp.where(jnp.concatenate([no, digit[:-1]]), _AFTER_DIGIT, 0)
    info += jnp.where(digit & ~jnp.concatenate([digit[1:], no]), _ENDS, 0)
    lexer = _Lexer(jnp.int32(start), *[jnp.int32(0)] * 7)
    lexer, events = jax.lax.scan(functools.partial(_lex, jnp.asarray(table)), lexer, info)
    return lexer, events, found


def _lex(
    table: jax.Array,  # i16[states * classes]
    at: _Lexer,
    info: jax.Array,  # i32[] what the byte is
) -> tuple[_Lexer, jax.Array]:  # i32[] the event
    entry = table[at.state * grammar.CLASSES + (info & _CLASS)].astype(jnp.int32)
    role = entry & (2**grammar.ROLE_BITS - 1)

    def is_(bits: int) -> jax.Array:
        return (info & bits) > 0

    number = info >> _NUMBER_AT & _NUMBER
    integer = jnp.minimum(at.integer * 10 + number, LARGEST_INTEGER)
    ends = is_(_ENDS)
    zero_before = is_(_DIGIT) & is_(_AFTER_DIGIT) & (at.integer == 0)

    formula = role == grammar.FORMULA
    equals = formula & is_(_EQUALS) & (at.right == 0)
    left = formula & (at.right == 0) & ~equals
    # An integer or an opening bracket begins an operand; the other tokens follow one.
    token = left & (ends | is_(_OPERATOR | _OPEN | _CLOSE))
    complete = (at.flags & COMPLETE) > 0
    begins = ends | is_(_OPEN)
    misplaced = begins == complete
    unmatched = is_(_CLOSE) & (at.depth == 0)
    moved = token & ~misplaced & ~unmatched
    closes = jnp.where(is_(_OPEN), 1, jnp.where(is_(_CLOSE), -1, 0))
    flags = jnp.where(token, at.flags & ~COMPLETE | (ends | is_(_CLOSE)), at.flags)
    flags |= jnp.where(left & zero_before, LEADING_ZERO, 0)
    flags |= jnp.where(left & is_(_BLANK), BLANKS, 0) | jnp.where(left & is_(_FOREIGN), FOREIGN, 0)

    # Behind the `=`: one integer, and blanks around it.
    behind = formula & (at.right > 0)
    answer = behind & ends & (at.right == 1)
    spoilt = behind & ~is_(_BLANK) & (zero_before | ~is_(_DIGIT) | (ends & (at.right > 1)))

    card = role == grammar.CARD
    listed = (role == grammar.DIGIT) & ends
    new_field = (role == grammar.NO_ROLE) & is_(_COLON)
    operation = left & is_(_OPERATOR)
    kind = jnp.where(left & is_(_OPEN), _OPENING, jnp.where(left & is_(_CLOSE), _CLOSING, _NOTHING))
    kind = jnp.where(left & ends, _LITERAL, jnp.where(operation, _OPERATION, kind))
    kind = jnp.where(card, _CARD, jnp.where(listed, _INTEGER, kind))
    payload = jnp.where(
        operation, (2 * at.depth + (number >> 1)) << 2 | number, jnp.where(ends, integer, 0)
    )
    payload = jnp.where(card, info >> _RANK_AT & _RANK, payload)
    item = card | listed | (left & ends)
    return _Lexer(
        state=entry >> grammar.ROLE_BITS,
        integer=jnp.where(is_(_DIGIT), integer, 0),
        place=jnp.where(new_field, 0, jnp.minimum(at.place + item, MANY)),
        flags=flags,
        depth=at.depth + jnp.where(moved, closes, 0),
        violations=at.violations + (token & (misplaced | unmatched)),
        right=jnp.where(spoilt, 3, at.right + equals + answer),
        right_side=jnp.where(answer, integer, at.right_side),
    ), kind | at.place << _PLACE_AT | payload << _PAYLOAD_AT


_CARD_BITS, _VALUE_BITS, _COUNT_BITS, _OPERATOR_BITS = 4, 10, 3, 13
Words = tuple[jax.Array, ...]  # i32[] each: fields of equal width, none across two words


@struct.dataclass
class _Registers:
    counts: jax.Array  # i32[] cards, then numbers, in three bits each
    cards: Words
    numbers: Words
    literals: Words
    operators: Words  # tightness << 2 | code
    used: jax.Array  # i32[]
    stranger: jax.Array  # i32[]
    brackets: Words  # opening, closing: how many, and literals before the first and the second

    @classmethod
    def empty(cls) -> "_Registers":
        zero = jnp.int32(0)
        two = (zero, zero)
        return cls(zero, (zero,), two, two, two, zero, zero, two)


def _collect(
    hand: tuple[jax.Array, ...], into: _Registers, event: jax.Array
) -> tuple[_Registers, None]:
    kind = event & (2**_PLACE_AT - 1)
    place, payload = event >> _PLACE_AT & _PLACE, event >> _PAYLOAD_AT
    literal = kind == _LITERAL
    value = jnp.minimum(payload, LARGEST_VALUE + 1)
    known = functools.reduce(jnp.logical_or, [payload == number for number in hand])
    used = into.used
    for card, number in enumerate(hand):
        at = card * _COUNT_BITS
        count = used >> at & MANY
        used += jnp.where(literal & (payload == number) & (count < MANY), 1 << at, 0)
    counts = into.counts
    for at, counted in ((0, _CARD), (3, _INTEGER)):
        count = counts >> at & MANY
        counts += jnp.where((kind == counted) & (count < MANY), 1 << at, 0)
    return _Registers(
        counts=counts,
        cards=_store(into.cards, _CARD_BITS, kind == _CARD, place, payload),
        numbers=_store(into.numbers, _VALUE_BITS, kind == _INTEGER, place, value),
        literals=_store(into.literals, _VALUE_BITS, literal, place, value),
        operators=_store(
            into.operators, _OPERATOR_BITS, (kind == _OPERATION) & (place > 0), place - 1, payload
        ),
        used=used,
        stranger=into.stranger | (literal & ~known),
        brackets=tuple(
            _note_bracket(word, kind == bracket, place)
            for word, bracket in zip(into.brackets, (_OPENING, _CLOSING), strict=True)
        ),
    ), None


def _note_bracket(word: jax.Array, here: jax.Array, place: jax.Array) -> jax.Array:
    count = word & MANY
    noted = word + (count < MANY) | jnp.where(count < 2, place << (3 * count + 3), 0)
    return jnp.where(here, noted, word)


def _store(words: Words, bits: int, here: jax.Array, place: jax.Array, value: jax.Array) -> Words:
    """Adds `value` to the field `place`, if there is one; in a legal formula it is still empty."""
    fields = 31 // bits
    kept = []
    for word, first in zip(words, range(0, fields * len(words), fields), strict=True):
        inside = here & (place >= first) & (place < first + fields)
        kept.append(word | jnp.where(inside, value << ((place - first) * bits), 0))
    return tuple(kept)


def _unpack(words: Words, bits: int, count: int) -> jax.Array:  # i32[count]
    fields = 31 // bits
    return jnp.stack(
        [words[i // fields] >> (i % fields * bits) & (2**bits - 1) for i in range(count)]
    )
