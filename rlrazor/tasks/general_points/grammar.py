"""The grammar of an answer as a table: a finite automaton over the bytes inside a JSON object.

It reads the fields `cards`, `number` and `formula`, each once and in any order, so which of them
are still missing is part of a state. Of every byte it says which part the byte plays. What stands
between the formula's quotes is left to the reader: brackets need a counter, not an automaton.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

NO_ROLE, CARD, DIGIT, FORMULA = range(4)  # a card's last byte, a digit in `number`, in the quotes
ROLE_BITS = 2

FIELDS = ("cards", "number", "formula")
BLANKS = " \t\n\r"
_SYMBOLS = "".join(sorted(set("".join(FIELDS) + "AJQK0123456789[],:\"'")))
_BLANK, _OTHER, OUTSIDE = range(len(_SYMBOLS), len(_SYMBOLS) + 3)  # OUTSIDE changes nothing
CLASSES = OUTSIDE + 1

Place = tuple[str, ...]  # what was read last, then the fields that are complete
Edge = tuple[Place, str, Place, int]  # from, by any of these symbols, to, role of the byte


def _field_edges(field: str, seen: tuple[str, ...]) -> Iterator[Edge]:
    """From the start of a field to its end, with the fields in `seen` already complete."""

    def at(*place: str) -> Place:
        return (*place, field, *seen)

    after = ("after", *sorted({*seen, field}))
    yield ("field", *seen), '"', ("key", "", *seen), NO_ROLE
    for length in range(len(field)):
        # The keys share no first letter, so a prefix names its field.
        yield (
            ("key", field[:length], *seen),
            field[length],
            ("key", field[: length + 1], *seen),
            NO_ROLE,
        )
    yield ("key", field, *seen), '"', at("colon"), NO_ROLE
    yield at("colon"), BLANKS, at("colon"), NO_ROLE
    yield at("colon"), ":", at("value"), NO_ROLE
    yield at("value"), BLANKS, at("value"), NO_ROLE
    if field == "formula":
        yield at("value"), '"', at("inside"), NO_ROLE
        yield at("inside"), '"', after, NO_ROLE
        return
    yield at("value"), "[", at("first"), NO_ROLE
    yield at("first"), "]", after, NO_ROLE
    for expects in (at("first"), at("next")):
        yield expects, BLANKS, expects, NO_ROLE
        yield from _card(expects, at) if field == "cards" else _integer(expects, at)
    yield at("element"), BLANKS, at("element"), NO_ROLE
    for read in [at("element"), at("zero"), at("digits")]:
        yield read, ",", at("next"), NO_ROLE
        yield read, "]", after, NO_ROLE


def _card(expects: Place, at) -> Iterator[Edge]:
    """A, 2 ... 10, J, Q, K, bare or within a pair of equal quotes."""
    for quote in ("", '"', "'"):
        opened = at("quote", quote) if quote else expects
        read = at("quoted", quote) if quote else at("element")
        if quote:
            yield expects, quote, opened, NO_ROLE
            yield read, quote, at("element"), NO_ROLE
        yield opened, "A23456789JQK", read, CARD
        yield opened, "1", at("ten", quote), NO_ROLE
        yield at("ten", quote), "0", read, CARD


def _integer(expects: Place, at) -> Iterator[Edge]:
    """0, or a digit other than 0 and any digits after it."""
    yield expects, "0", at("zero"), DIGIT
    yield expects, "123456789", at("digits"), DIGIT
    yield at("digits"), "0123456789", at("digits"), DIGIT
    for read in (at("zero"), at("digits")):
        yield read, BLANKS, at("element"), NO_ROLE


def _edges() -> Iterable[Edge]:
    for count in range(len(FIELDS) + 1):
        for seen in itertools.combinations(sorted(FIELDS), count):
            yield ("field", *seen), BLANKS, ("field", *seen), NO_ROLE
            yield ("after", *seen), BLANKS, ("after", *seen), NO_ROLE
            yield ("after", *seen), ",", ("field", *seen), NO_ROLE
            for field in sorted(set(FIELDS) - set(seen)):
                yield from _field_edges(field, seen)


@functools.cache
def byte_classes() -> np.ndarray:  # i32[256]
    """The class of every byte, by which the table is indexed."""
    classes = np.full(256, _OTHER, np.int32)
    for place, symbol in enumerate(_SYMBOLS):
        classes[ord(symbol)] = place
    for symbol in BLANKS:
        classes[ord(symbol)] = _BLANK
    return classes


@functools.cache
def automaton() -> tuple[np.ndarray, int, frozenset[int]]:
    """The table i16[states * CLASSES] of `next state << ROLE_BITS | role`, start and accepting.

    State 0 rejects, for good.
    """
    edges = list(_edges())
    places = sorted({edge[0] for edge in edges} | {edge[2] for edge in edges})
    number = {place: index + 1 for index, place in enumerate(places)}
    table = np.zeros((len(places) + 1, CLASSES), np.int16)
    classes = byte_classes()
    for index in number.values():
        table[index, OUTSIDE] = index << ROLE_BITS
    for place, index in number.items():
        if place[0] == "inside":
            table[index, :OUTSIDE] = index << ROLE_BITS | FORMULA
    for source, symbols, target, role in edges:
        for symbol in symbols:
            table[number[source], classes[ord(symbol)]] = number[target] << ROLE_BITS | role
    complete = tuple(sorted(FIELDS))
    accepting = frozenset(number[(place, *complete)] for place in ("after", "field"))
    return table.reshape(-1), number[("field",)], accepting
