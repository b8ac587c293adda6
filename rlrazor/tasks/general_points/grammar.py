"""The grammar of an answer as a table: a finite automaton over the bytes of a whole text.

It finds every object in the text and says of each byte what part it plays: see `Role`. What the
formula's tokens mean together is left to the reader: brackets need a counter, not an automaton.
What the grammar accepts, and what it refuses, is said in `verifier`.

A table is written state by state, one target and role for each of the 256 bytes. `automaton` then
merges bytes and states that nothing tells apart, so that the table stays in a fast cache.
"""

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

BLANKS = b" \t\n\r"


class Role(enum.IntEnum):
    """What a byte is."""

    NOTHING = 0
    BEGINS = enum.auto()  # an object; whatever was begun before and not ended is given up
    ENDS = enum.auto()  # an object that holds a formula
    CARDS = enum.auto()  # the colon behind the key, as the next two
    NUMBER = enum.auto()
    FORMULA = enum.auto()
    CARD = enum.auto()  # names a card, see `RANKS_OF_BYTES`
    NO_CARD = enum.auto()  # an item in "cards" is no card
    DIGIT = enum.auto()  # of an integer in "number"
    NO_NUMBER = enum.auto()  # an item in "number" is no integer
    OWN = enum.auto()  # in the formula: the byte stands for itself
    PART = enum.auto()  # in the formula: of a symbol of several bytes, but not its last
    FOREIGN = enum.auto()  # in the formula: of no symbol
    # In the formula, the last byte of a symbol that means:
    PLUS = enum.auto()
    MINUS = enum.auto()
    TIMES = enum.auto()
    OVER = enum.auto()
    OPEN = enum.auto()
    CLOSE = enum.auto()
    EQUALS = enum.auto()
    BLANK = enum.auto()
    # The same, but a symbol that the study's released code does not read:
    SPELLED_MINUS = enum.auto()
    SPELLED_TIMES = enum.auto()
    SPELLED_OVER = enum.auto()
    SPELLED_BLANK = enum.auto()


MEANINGS = {  # the byte that a role stands for, in a formula
    Role.PLUS: b"+",
    Role.MINUS: b"-",
    Role.TIMES: b"*",
    Role.OVER: b"/",
    Role.OPEN: b"(",
    Role.CLOSE: b")",
    Role.EQUALS: b"=",
    Role.BLANK: b" ",
    Role.SPELLED_MINUS: b"-",
    Role.SPELLED_TIMES: b"*",
    Role.SPELLED_OVER: b"/",
    Role.SPELLED_BLANK: b" ",
}
_SIGNS = {  # other ways to write a symbol, none the beginning of another
    Role.SPELLED_MINUS: ("\u2212", "\u2013"),  # minus sign, en dash
    Role.SPELLED_TIMES: ("\u00d7", "\u00b7", "\u22c5", "\u2217"),  # times, dots, asterisk
    Role.SPELLED_OVER: ("\u00f7", "\u2215"),  # division sign, division slash
    Role.SPELLED_BLANK: ("\u00a0", "\u202f"),  # spaces that do not break
}
_LATEX = {Role.SPELLED_TIMES: ("times", "cdot", "ast"), Role.SPELLED_OVER: ("div",)}

RANKS_OF_BYTES: Mapping[int, int] = {  # of a byte with the role CARD; any other is an ace
    **{ord(str(rank)): rank for rank in range(2, 10)},
    **{ord(letter): 10 for letter in "0Tt"},
    **{ord(letter): 11 for letter in "Jj"},
    **{ord(letter): 12 for letter in "Qq"},
    **{ord(letter): 13 for letter in "Kk"},
}
_NAMES = ("ace", "jack", "queen", "king")
_SUITS = ("spades", "hearts", "diamonds", "clubs")
_SUIT_LETTERS = b"SHDCshdc"
_SUIT_SIGN = (b"\xe2", b"\x99", bytes(range(0xA0, 0xA8)))  # U+2660 to U+2667, a byte each
_AS_PICTURE = (b"\xef", b"\xb8", b"\x8f")  # U+FE0F, which may follow a sign

_KEYS = {
    b"cards": Role.CARDS,
    b"number": Role.NUMBER,
    b"numbers": Role.NUMBER,
    b"formula": Role.FORMULA,
}
_DEEPEST_LIST = 3  # within a field that nobody asked for

_MARKS = b",[]{}\"'"  # what ends a word, with blanks

State = tuple[object, ...]  # what was read last; the last item says if a formula was
_OUTSIDE: State = ("outside",)


@dataclasses.dataclass
class _Table:
    """Rows of 256 pairs (state to go to, role)."""

    rows: dict[State, list[tuple[State, Role]]] = dataclasses.field(default_factory=dict)

    def new(self, state: State) -> State:
        """A state that gives up at anything but the beginning of an object."""
        self.rows[state] = [(_OUTSIDE, Role.NOTHING)] * 256
        self.on(state, b"{", ("field", False), Role.BEGINS)
        return state

    def copy(self, state: State, like: State) -> State:
        self.rows[state] = list(self.rows[like])
        return state

    def on(
        self, state: State, these: Iterable[int], target: State, role: Role = Role.NOTHING
    ) -> None:
        for byte in these:
            self.rows[state][byte] = (target, role)

    def stay(self, state: State, *, but: bytes = b"", role: Role = Role.NOTHING) -> None:
        """Any byte but these leaves the state as it is."""
        self.on(state, sorted(set(range(256)) - set(but)), state, role)

    def blame(self, state: State, role: Role) -> None:
        """Gives the role to all that has none."""
        self.rows[state] = [(t, r or role) for t, r in self.rows[state]]

    def string(self, state: State, quote: bytes, end: State, role: Role = Role.NOTHING) -> State:
        """What may stand between two quotes: anything, a backslash shields the byte behind it.

        A brace means nothing here, unless a quote follows: then an object begins.
        """
        self.rows[state] = [(state, role)] * 256
        self.on(state, quote, end)
        shielded = ("shielded", *state)
        self.on(state, b"\\", shielded, role)
        self.brace(state, role)
        self.rows[shielded] = [(state, role)] * 256
        self.on(shielded, b"{", ("brace", *state), role)
        return state

    def brace(self, state: State, role: Role) -> None:
        """A brace within a string, which begins an object if a quote follows."""
        brace = self.copy(("brace", *state), state)
        for place in (state, brace):
            self.on(place, b"{", brace, role)
        self.on(brace, BLANKS, brace, role)
        self.on(brace, b'"', ("key", b"", False), Role.BEGINS)


def _fields(table: _Table, seen: bool) -> None:
    """What stands between braces outside the values, with the formula read already or not."""
    field, after = table.new(("field", seen)), table.new(("after", seen))
    table.on(field, BLANKS, field)
    table.on(field, b'"', ("key", b"", seen))
    table.on(after, BLANKS, after)
    table.on(after, b",", field)
    if seen:
        for place in (field, after):
            table.on(place, b"}", _OUTSIDE, Role.ENDS)
    other = table.string(("key", "other", seen), b'"', ("colon", Role.NOTHING, seen))
    for begun in sorted({key[:length] for key in _KEYS for length in range(len(key) + 1)}):
        table.copy(("key", begun, seen), other)
    for key, role in _KEYS.items():
        for length in range(len(key)):
            table.on(
                ("key", key[:length], seen),
                key[length : length + 1],
                ("key", key[: length + 1], seen),
            )
        table.on(("key", key, seen), b'"', ("colon", role, seen))
    for role in (Role.NOTHING, Role.CARDS, Role.NUMBER, Role.FORMULA):
        colon = table.new(("colon", role, seen))
        table.on(colon, BLANKS, colon)
        table.on(colon, b":", ("value", role, seen), role)
        _value(table, role, seen)


def _value(table: _Table, role: Role, seen: bool) -> None:
    """A value of the field: for "cards" and "number", all but a list is skipped, and lacks."""
    value, after = table.new(("value", role, seen)), ("after", seen)
    if role == Role.FORMULA:
        table.on(value, BLANKS, value)
        table.on(value, b'"', ("formula", b""))
        return
    if role == Role.NOTHING:
        word = table.copy(("word", seen), after)
        table.stay(word, but=BLANKS + _MARKS)
        table.string(("skipped", 0, seen), b'"', after)
        _skipped_lists(table, seen)
    table.stay(value, but=BLANKS + _MARKS)
    table.on(value, set(range(256)) - set(BLANKS + _MARKS), ("word", seen))
    table.on(value, BLANKS, value)
    table.on(value, b'"', ("skipped", 0, seen))
    table.on(value, b"[", ("skipped list", 1, seen))
    if role in (Role.CARDS, Role.NUMBER):
        table.on(value, b"[", ("item", role, seen))
        _list(table, role, seen)


def _skipped_lists(table: _Table, seen: bool) -> None:
    """A list that nobody asked for, of anything but objects."""
    for depth in range(1, _DEEPEST_LIST + 1):
        state = table.new(("skipped list", depth, seen))
        outer = ("skipped list", depth - 1, seen) if depth > 1 else ("after", seen)
        table.stay(state, but=b'[]{}"')
        table.on(state, b"]", outer)
        if depth < _DEEPEST_LIST:
            table.on(state, b"[", ("skipped list", depth + 1, seen))
        table.on(state, b'"', table.string(("skipped", depth, seen), b'"', state))


def _list(table: _Table, field: Role, seen: bool) -> None:
    """Items with commas between, perhaps one behind the last, each a word or within quotes."""
    place = (field, seen)
    before, behind = table.new(("item", *place)), table.new(("behind", *place))
    table.on(behind, BLANKS, behind)
    table.on(behind, b",", before)
    table.on(behind, b"]", ("after", seen))
    word = table.copy(("", "other", *place), behind)
    table.stay(word, but=BLANKS + _MARKS)
    table.copy(before, _items(_Item(table, "", place, word)))
    table.on(before, BLANKS, before)
    table.on(before, b",", _OUTSIDE)
    table.on(before, b"]", ("after", seen))
    for quote in ('"', "'"):
        string = table.string((quote, "other", *place), quote.encode(), behind)
        table.on(before, quote.encode(), _items(_Item(table, quote, place, string)))


@dataclasses.dataclass
class _Item:
    """Builds what is understood of an item."""

    table: _Table
    quote: str  # around it, if any
    place: tuple[Role, bool]
    other: State  # within an item that is not understood

    def part(self, name: str, *, whole: bool = False) -> State:
        """A state within an item, which whatever is not said otherwise spoils."""
        state = self.table.copy((self.quote, name, *self.place), self.other)
        spoilt = Role.NO_CARD if self.place[0] == Role.CARDS else Role.NO_NUMBER
        self.table.blame(state, spoilt)
        if whole:
            for stop in self.quote.encode() or BLANKS + b",]":
                self.table.rows[state][stop] = self.table.rows[self.other][stop]
        return state

    def path(self, state: State, name: str, steps: Sequence[bytes], target: State) -> None:
        """From one state to another by one byte of every step."""
        for length, step in enumerate(steps, start=1):
            following = target
            if length < len(steps):
                following = self.part(f"{name} {length}")
                former, _ = self.table.rows[state][step[0]]
                if former != self.other:  # "AC" is the ace of clubs, "Ace" goes on
                    self.table.copy(following, former)
            self.table.on(state, step, following)
            state = following

    def word(self, state: State, word: str, target: State) -> None:
        """The same by the letters of a word, small or capital."""
        self.path(state, word, [f"{c}{c.upper()}".encode() for c in word], target)


def _items(item: _Item) -> State:
    """The state at the start of an item."""
    table, start, end = item.table, item.part("start"), item.part("end", whole=True)
    if item.quote:
        table.on(start, BLANKS, start)
        table.on(end, BLANKS, end)
    if item.place[0] == Role.CARDS:
        _cards(item, start, end)
        return start
    zero, digits, point = (item.part(name, whole=True) for name in ("zero", "digits", "point"))
    table.on(start, b"0", zero, Role.DIGIT)
    for before in (start, digits):
        table.on(before, b"123456789", digits, Role.DIGIT)
    table.on(digits, b"0", digits, Role.DIGIT)
    for number in (zero, digits):
        table.on(number, b".", point)
    table.on(point, b"0", point)
    if item.quote:
        for number in (zero, digits, point):
            table.on(number, BLANKS, end)
    return start


def _cards(item: _Item, start: State, end: State) -> None:
    """A card's short name, perhaps with its suit's letter or sign, or its name in words."""
    table, suited, signed = item.table, *(item.part(n, whole=True) for n in ("suited", "signed"))
    if item.quote:
        spaced, of = table.copy(item.part("spaced"), end), item.part("of")
        suit = item.part("of suit")
        for state in (suited, signed, spaced):
            table.on(state, BLANKS, spaced)
        item.word(spaced, "of", of)
        for state in (of, suit):
            table.on(state, BLANKS, suit)
        for name in _SUITS:
            item.word(suit, name, end)
    item.path(signed, "as picture", _AS_PICTURE, suited)
    named = table.copy(item.part("named"), suited)
    table.on(named, _SUIT_LETTERS, suited)
    item.path(named, "sign", _SUIT_SIGN, signed)
    table.on(start, b"23456789Tt", named, Role.CARD)
    for name in _NAMES:
        letter = table.copy(item.part(name[0]), named)
        table.on(start, f"{name[0]}{name[0].upper()}".encode(), letter, Role.CARD)
        item.word(letter, name[1:], suited)
    one = table.copy(item.part("1"), named)
    table.blame(one, Role.CARD)  # the byte behind it: an ace, unless it makes a ten
    table.on(one, b"0", named, Role.CARD)
    table.on(start, b"1", one)


def _spellings() -> Iterator[tuple[bytes, Role]]:
    """Symbols of the formula in several bytes."""
    for role, meaning in MEANINGS.items():
        for sign in _SIGNS.get(role, () if "SPELLED" in role.name else (meaning.decode(),)):
            if role in _SIGNS:
                yield sign.encode(), role
            for digits in sorted({f"{ord(sign):04x}", f"{ord(sign):04X}"}):
                yield b"\\u" + digits.encode(), role
    yield b"\\/", Role.OVER
    for role, names in _LATEX.items():
        for name in names:
            yield b"\\" + name.encode(), role
            yield b"\\\\" + name.encode(), role


def _formula(table: _Table) -> None:
    """What stands between the formula's quotes, byte by byte, and symbols of several bytes."""
    formula = table.string(("formula", b""), b'"', ("after", True), Role.OWN)
    table.on(formula, b"xX", formula, Role.SPELLED_TIMES)
    spellings = dict(_spellings())
    begun = sorted({text[:n] for text in spellings for n in range(1, len(text))})
    for text in begun:
        state = table.copy(("formula", text), formula)
        table.rows[state] = [(target, Role.FOREIGN) for target, _ in table.rows[state]]
        table.on(state, b"\\", ("formula", b"\\"), Role.FOREIGN)
        if text == b"\\":
            table.on(state, b'"', formula, Role.FOREIGN)
    for text, role in [*((text, Role.PART) for text in begun), *spellings.items()]:
        target = formula if text in spellings else ("formula", text)
        table.on(("formula", text[:-1]), text[-1:], target, role)
    table.brace(formula, Role.OWN)


def automaton(
    words: np.ndarray,  # i64[len(Role), 256] what a reader wants to be told of each byte in a role
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The class of each byte, i32[256]; of every state and class the next state and the word, both
    i64[states, classes]; the state at the start of a text."""
    table = _Table()
    table.new(_OUTSIDE)
    for seen in (False, True):
        _fields(table, seen)
    _formula(table)
    number = {state: place for place, state in enumerate(table.rows)}
    targets = np.array([[number[target] for target, _ in row] for row in table.rows.values()])
    told = np.array([[role for _, role in row] for row in table.rows.values()])
    told = words[told, np.arange(256)]
    _, first, classes = np.unique(
        np.concatenate([targets, told]), axis=1, return_index=True, return_inverse=True
    )
    targets, told = targets[:, first], told[:, first]
    # States are one if they say the same of each class and lead to states that are one.
    merged = np.zeros(len(targets), np.int64)
    while True:
        rows = np.column_stack([merged, merged[targets], told])
        _, first, finer = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        if finer.max() == merged.max():
            break
        merged = finer.reshape(-1)
    start = int(merged[number[_OUTSIDE]])
    return classes.reshape(-1).astype(np.int32), merged[targets[first]], told[first], start
