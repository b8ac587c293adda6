"""Reads the bytes of an answer into registers for all that the judge asks about.

What an answer may look like is said in `verifier`. A first pass runs the grammar's automaton over
all bytes, which says of each what it is; a second, from the end, keeps the last object that the
automaton accepts. A third turns each byte into an event, with an integer and a bracket counter; a
fourth puts the events into a few registers of fixed size. So work and memory depend on the length
of the text alone: hostile text costs what any text costs. Registers are packed into words and
nothing but the automaton is indexed by data, because these passes are most of a verdict's time.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.tasks.general_points import grammar, pieces
from rlrazor.tasks.general_points.grammar import Role
from rlrazor.tasks.general_points.rational import OPERATORS
from rlrazor.tasks.general_points.rule import LARGEST_INTEGER, LARGEST_VALUE

DEEPEST = 1023  # brackets within brackets: they are counted in ten bits
MANY = 7  # lists are counted up to here

# What a byte is, as bits of one word: what it counts, then what it is.
_COUNT = 15  # a digit's worth, an operator's code, the rank of a card
(_DIGIT, _OPERATOR, _OPEN, _CLOSE, _EQUALS, _BLANK, _FOREIGN, _SPELLED, _TOLD, _CARD_NAMED, _LISTED,
 _NO_CARD, _NO_NUMBER, _CARDS, _NUMBER, _FORMULA, _BEGINS, _ENDS, _BRACE) = (
    1 << bit for bit in range(4, 23)
)  # fmt: skip
_WORD_BITS = 23
_LAST, _FOUND = 1 << 23, 1 << 24  # the last digit of an integer; a `{` and a `}` behind it

# Events: the kind in four bits, the place in its list in three, above them what the kind holds.
_NOTHING, _CARD, _INTEGER, _LITERAL, _OPERATION, _OPENING, _CLOSING = range(7)
_PLACE_AT, _PLACE, _PAYLOAD_AT = 4, 7, 7

# Flags of the formula.
COMPLETE, LEADING_ZERO, BLANKS, FOREIGN, SPELLED = 1, 2, 4, 8, 16


@struct.dataclass
class Reading:
    """What one answer says. Lists hold their first C items, and count on up to MANY."""

    found: jax.Array  # bool[] there is a `{` and a `}` behind it
    well_formed: jax.Array  # bool[] and an object that the grammar accepts
    cards: jax.Array  # i32[C] ranks in the field "cards", 0 where there are fewer
    card_count: jax.Array  # i32[]
    unknown_card: jax.Array  # bool[] the field holds something else, too
    numbers: jax.Array  # i32[C] worths in the field "number", at most LARGEST_VALUE + 1
    number_count: jax.Array  # i32[]
    unknown_number: jax.Array  # bool[] the field holds something else, too
    literals: jax.Array  # i32[C] integers of the formula, left of `=`, likewise
    used: jax.Array  # i32[C] how often the formula holds each number of the hand
    stranger: jax.Array  # bool[] the formula holds an integer that is on no card
    operators: jax.Array  # i32[C - 1] codes of the formula's first operators
    tightness: jax.Array  # i32[C - 1] the tighter of two neighbours acts first
    flags: jax.Array  # i32[] COMPLETE to SPELLED, of the left side
    unclosed: jax.Array  # i32[] brackets still open where the left side ends
    violations: jax.Array  # i32[] tokens of the left side that cannot stand where they do
    right: jax.Array  # i32[] 0: no `=`; 1: nothing behind it; 2: one integer; 3: anything else
    right_side: jax.Array  # i32[] that integer
    brackets: jax.Array  # i32[2, 3] opening and closing: how many, literals before the first two


@struct.dataclass
class _Lexer:
    integer: jax.Array  # i32[] worth of the digits just before, -1 without
    place: jax.Array  # i32[] items of the current list so far
    flags: jax.Array  # i32[]
    depth: jax.Array  # i32[]
    violations: jax.Array  # i32[]
    right: jax.Array  # i32[]
    right_side: jax.Array  # i32[]


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray, int]:
    """The grammar's automaton: class of each byte, u32[states * classes] of `next state <<
    _WORD_BITS | what the byte is`, first state."""
    words = np.zeros((len(Role), 256), np.int64)
    own = words[Role.OWN]
    own[:] = _FOREIGN
    for digit in range(10):
        own[ord("0") + digit] = _DIGIT | digit
    for code, symbol in enumerate(OPERATORS):
        own[ord(symbol)] = _OPERATOR | code
    for symbol, bit in zip("()=", (_OPEN, _CLOSE, _EQUALS), strict=True):
        own[ord(symbol)] = bit
    own[list(grammar.BLANKS)] = _BLANK
    own |= _TOLD
    words[Role.FOREIGN] = _FOREIGN | _TOLD
    for role, meaning in grammar.MEANINGS.items():
        words[role] = own[ord(meaning)] | _SPELLED * role.name.startswith("SPELLED")
    words[Role.DIGIT] = own & (_DIGIT | _COUNT) | _LISTED
    words[Role.CARD] = [_CARD_NAMED | grammar.RANKS_OF_BYTES.get(byte, 1) for byte in range(256)]
    for role, bit in (
        (Role.NO_CARD, _NO_CARD),
        (Role.NO_NUMBER, _NO_NUMBER),
        (Role.CARDS, _CARDS),
        (Role.NUMBER, _NUMBER),
        (Role.FORMULA, _FORMULA),
        (Role.BEGINS, _BEGINS),
        (Role.ENDS, _ENDS),
    ):
        words[role] = bit
    words[:, ord("}")] |= _BRACE
    classes, targets, words, start = grammar.automaton(words)
    return classes, (targets << _WORD_BITS | words).astype(np.uint32), start


def read(
    text: jax.Array,  # u8[T] zeros after the end, which count as any other byte outside
    hand: jax.Array,  # i32[C] the numbers on the cards
) -> Reading:
    """Reads one answer, of any static length T."""
    chex.assert_rank([text, hand], 1)
    chex.assert_type(text, jnp.uint8)
    (T,), (C,) = text.shape, hand.shape
    if not T:
        raise ValueError("answers of 0 bytes cannot be judged; give each row at least one byte")
    lexer, events, met = _lex_all(text)
    # A pass of its own: in one loop, the compiler would derive each event anew for each register.
    registers, _ = jax.lax.scan(
        functools.partial(_collect, tuple(hand)), _Registers.empty(), events
    )
    binding = _unpack(registers.operators, _OPERATOR_BITS, C - 1)
    return Reading(
        found=(met & _FOUND) > 0,
        well_formed=(met & _ENDS) > 0,
        cards=_unpack(registers.cards, _CARD_BITS, C),
        card_count=registers.counts & MANY,
        unknown_card=(met & _NO_CARD) > 0,
        numbers=_unpack(registers.numbers, _VALUE_BITS, C),
        number_count=registers.counts >> 3 & MANY,
        unknown_number=(met & _NO_NUMBER) > 0,
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


def _lex_all(text: jax.Array) -> tuple[_Lexer, jax.Array, jax.Array]:  # i32[T] events, i32[] met
    classes, table, start = _table()
    _, size = table.shape
    rows = jnp.asarray(table.reshape(-1))

    def walk(state: jax.Array, kind: jax.Array) -> tuple[jax.Array, jax.Array]:
        entry = rows[state * size + kind]
        word = (entry & (2**_WORD_BITS - 1)).astype(jnp.int32)
        return (entry >> _WORD_BITS).astype(jnp.int32), word

    _, info = jax.lax.scan(walk, jnp.int32(start), jnp.asarray(classes)[text])
    met, info = jax.lax.scan(_keep, jnp.int32(0), info, reverse=True)
    lexer, events = jax.lax.scan(_lex, _Lexer(jnp.int32(-1), *[jnp.int32(0)] * 6), info)
    return lexer, events, met


def _keep(
    met: jax.Array,  # i32[] what stands behind, as bits
    info: jax.Array,  # i32[] what the byte is
) -> tuple[jax.Array, jax.Array]:  # i32[] both
    """From the end: keeps the last object, and of its fields the last of each name."""

    def has(word: jax.Array, bits: int) -> jax.Array:
        return (word & bits) > 0

    inside = has(met, _ENDS) & ~has(met, _BEGINS)
    earlier = (
        (has(met, _FORMULA) & has(info, _TOLD))
        | (has(met, _CARDS) & has(info, _CARD_NAMED | _NO_CARD))
        | (has(met, _NUMBER) & has(info, _LISTED | _NO_NUMBER))
    )
    kept = jnp.where(inside & ~earlier, info, 0)
    last = jnp.where(has(kept, _DIGIT) & ~has(met, _DIGIT), _LAST, 0)
    found = jnp.where(has(met, _BRACE) & has(info, _BEGINS), _FOUND, 0)
    fields = _CARDS | _NUMBER | _FORMULA | _NO_CARD | _NO_NUMBER | _BEGINS
    met = met & ~_DIGIT | kept & (fields | _DIGIT) | info & (_ENDS | _BRACE) | found
    return met, kept | last


def _lex(
    at: _Lexer,
    info: jax.Array,  # i32[] what the byte is
) -> tuple[_Lexer, jax.Array]:  # i32[] the event
    def is_(bits: int) -> jax.Array:
        return (info & bits) > 0

    count, ends = info & _COUNT, is_(_LAST)
    integer = jnp.minimum(jnp.maximum(at.integer, 0) * 10 + count, LARGEST_INTEGER)
    zero_before = is_(_DIGIT) & (at.integer == 0)

    equals = is_(_EQUALS) & (at.right == 0)
    left = is_(_TOLD) & (at.right == 0) & ~equals
    # An integer or an opening bracket begins an operand; the other tokens follow one.
    token = left & (ends | is_(_OPERATOR | _OPEN | _CLOSE))
    complete = (at.flags & COMPLETE) > 0
    begins = ends | is_(_OPEN)
    misplaced = begins == complete
    unmatched = (is_(_CLOSE) & (at.depth == 0)) | (is_(_OPEN) & (at.depth == DEEPEST))
    moved = token & ~misplaced & ~unmatched
    closes = jnp.where(is_(_OPEN), 1, jnp.where(is_(_CLOSE), -1, 0))
    flags = jnp.where(token, at.flags & ~COMPLETE | (ends | is_(_CLOSE)), at.flags)
    flags |= jnp.where(left, info // _BLANK * BLANKS & (BLANKS | FOREIGN | SPELLED), 0)
    flags |= jnp.where(left & zero_before, LEADING_ZERO, 0)

    # Behind the `=`: one integer, and blanks around it.
    behind = is_(_TOLD) & (at.right > 0)
    answer = behind & ends & (at.right == 1)
    other = is_(_OPERATOR | _OPEN | _CLOSE | _EQUALS | _FOREIGN)
    spoilt = behind & (other | zero_before | (ends & (at.right > 1)))

    card, listed = is_(_CARD_NAMED), is_(_LISTED) & ends
    operation = left & is_(_OPERATOR)
    kind = jnp.where(left & is_(_OPEN), _OPENING, jnp.where(left & is_(_CLOSE), _CLOSING, _NOTHING))
    kind = jnp.where(left & ends, _LITERAL, jnp.where(operation, _OPERATION, kind))
    kind = jnp.where(card, _CARD, jnp.where(listed, _INTEGER, kind))
    payload = jnp.where(
        operation, (2 * at.depth + (count >> 1)) << 2 | count, jnp.where(ends, integer, 0)
    )
    payload = jnp.where(card, count, payload)
    item = card | listed | (left & ends)
    return _Lexer(
        integer=jnp.where(is_(_DIGIT), integer, -1),
        place=jnp.where(is_(_CARDS | _NUMBER | _FORMULA), 0, jnp.minimum(at.place + item, MANY)),
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
