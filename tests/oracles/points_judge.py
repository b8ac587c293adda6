"""GeneralPoints judged in plain Python: obvious, exact and slow, to prove the device's judge by.

Nothing is evaluated by Python itself: a formula becomes a tree, and a tree a number, in view.
"""

import contextlib
import itertools
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from rlrazor.tasks.general_points.rule import RANKS, Rule

FLAGS: tuple[str, ...] = (
    "no_object", "malformed_field", "illegal_formula", "number_not_on_cards", "card_reused",
    "card_unused", "wrong_value", "cards_misread", "numbers_mistranslated", "correct",
)  # fmt: skip

DEEPEST = 1023  # brackets within brackets

Tree: TypeAlias = "int | list[Tree | str]"  # a list is operand, operator, operand, ...
Number: TypeAlias = int | float | Fraction


class MalformedError(Exception):
    """No object, or one that is not in the grammar."""


class IllegalError(Exception):
    """The formula is not in the grammar."""


class Fields(NamedTuple):
    cards: list[int | None]  # ranks, 1 = A, ..., 13 = K; None is no card
    number: list[int | None]
    formula: bytes  # as it stands between the quotes


class Formula(NamedTuple):
    tree: Tree
    integers: list[int]  # those left of "="
    stated: int | None  # the one right of "="


def judge(text: bytes, ranks: Sequence[int], rule: Rule) -> dict[str, bool]:
    """Every flag of one answer to the hand `ranks`."""
    flags = dict.fromkeys(FLAGS, False)
    fields = read_object(text)
    if fields is None:
        braces = re.search(rb"\{.*\}", text, re.DOTALL)
        flags["malformed_field" if braces else "no_object"] = True
        return flags

    flags["cards_misread"] = Counter(fields.cards) != Counter(ranks)
    # A list with something that is no card has no translation.
    translation = [rule.values[rank - 1] for rank in fields.cards if rank is not None]
    whole = len(fields.cards) == len(translation) == rule.cards
    flags["numbers_mistranslated"] = not whole or Counter(fields.number) != Counter(translation)
    try:
        formula = read_formula(fields.formula)
    except IllegalError:
        flags["illegal_formula"] = True
        return flags

    held, used = [rule.values[rank - 1] for rank in ranks], formula.integers
    flags["number_not_on_cards"] = any(number not in held for number in used)
    flags["card_reused"] = any(used.count(number) > held.count(number) for number in held)
    flags["card_unused"] = any(used.count(number) < held.count(number) for number in held)
    if sorted(used) == sorted(held):
        flags["correct"] = reaches(formula, rule.target)
        flags["wrong_value"] = not flags["correct"]
    return flags


def reaches(formula: Formula, target: int) -> bool:
    return formula.stated in (None, target) and left_side_reaches(formula, target)


def left_side_reaches(formula: Formula, target: int) -> bool:
    try:
        return value(formula.tree, Fraction) == target
    except ZeroDivisionError:
        return False


# The object: every token takes the white space before it.


def token(pattern: bytes) -> re.Pattern[bytes]:
    """Matches white space and then the pattern, whose last group is the token."""
    return re.compile(rb"[ \t\n\r]*" + pattern, re.DOTALL)


STRING = rb'"((?:[^"\\]|\\.)*)"'
SINGLE = rb"'((?:[^'\\]|\\.)*)'"
WORD = rb"""([^ \t\n\r,\[\]{}"']+)"""
BEGINNING = re.compile(rb'\{(?=[ \t\n\r]*")')
KEY, SCALAR = token(STRING), token(b"(?:" + STRING + b"|" + WORD + b")")
ITEM = token(b"(?:" + STRING + b"|" + SINGLE + b"|" + WORD + b")")
COLON, COMMA, OPEN, CLOSE = token(b"(:)"), token(b"(,)"), token(rb"(\[)"), token(rb"(\])")
BEGIN, CLOSING, END = token(rb"(\{)"), token(rb"(\})"), token(rb"(\Z)")
INSIDE_LIST = re.compile(rb'(?:[^\[\]{}"]|"(?:[^"\\]|\\.)*")*', re.DOTALL)

NAMES = {**{name: rank for rank, name in enumerate(RANKS, start=1)}, "1": 1, "T": 10}
WORDS = {"ACE": 1, "JACK": 11, "QUEEN": 12, "KING": 13}
SHORT = re.compile(rf"({'|'.join(NAMES)})(?:[SHDC]|[\u2660-\u2667]\ufe0f?)?", re.IGNORECASE)
OF_SUIT = re.compile(r"[ \t\n\r]+of[ \t\n\r]+(spades|hearts|diamonds|clubs)\Z", re.IGNORECASE)
WHOLE = re.compile(rb"(0|[1-9][0-9]*)(?:\.0*)?")
FORMULA_TOKEN = token(rb"(0|[1-9][0-9]*|[-+*/()=])")


class Reader:
    """Takes tokens off the front of a text."""

    def __init__(self, text: bytes):
        self.text, self.place = text, 0

    def take(self, pattern: re.Pattern[bytes]) -> bytes | None:
        found = pattern.match(self.text, self.place)
        if found is None:
            return None
        self.place = found.end()
        return found[found.lastindex or 0]

    def need(self, pattern: re.Pattern[bytes]) -> bytes:
        taken = self.take(pattern)
        if taken is None:
            raise MalformedError
        return taken


def read_object(text: bytes) -> Fields | None:
    """The fields of the last object that can be read; each ends before the next begins."""
    starts = [found.start() for found in BEGINNING.finditer(text)]
    for start, stop in reversed([*itertools.pairwise([*starts, len(text)])]):
        with contextlib.suppress(MalformedError):
            return read_fields(text[start:stop])
    return None


def read_fields(text: bytes) -> Fields:
    """What the object at the front of a text says; of two fields of one name, the later one."""
    reader, found = Reader(text), {}
    reader.need(BEGIN)
    while (key := reader.take(KEY)) is not None:
        reader.need(COLON)
        if key == b"formula":
            found[key] = reader.need(KEY)
        elif key == b"cards":
            found[key] = [read_card(item) for item in read_list(reader)]
        elif key in (b"number", b"numbers"):
            found[b"number"] = [read_number(item) for item in read_list(reader)]
        else:
            skip(reader)
        if reader.take(COMMA) is None:
            break
    reader.need(CLOSING)
    if b"formula" not in found:
        raise MalformedError
    return Fields(found.get(b"cards", []), found.get(b"number", []), found[b"formula"])


def read_list(reader: Reader) -> list[bytes]:
    """The items; none where something else than a list stands."""
    if reader.take(OPEN) is None:
        skip(reader)
        return []
    items = []
    while reader.take(CLOSE) is None:
        items.append(reader.need(ITEM))
        if reader.take(COMMA) is None:
            reader.need(CLOSE)
            break
    return items


def skip(reader: Reader, depth: int = 0) -> None:
    """A value of a field that nobody asked for: a string, a word, or lists three deep."""
    if depth == 0 and reader.take(SCALAR) is not None:
        return
    reader.need(OPEN)
    reader.take(INSIDE_LIST)
    while reader.take(CLOSE) is None:
        if depth == 2:
            raise MalformedError
        skip(reader, depth + 1)
        reader.take(INSIDE_LIST)


def read_card(item: bytes) -> int | None:
    name = item.strip(b" \t\n\r").decode("utf-8", "replace")
    bare = OF_SUIT.sub("", name)
    if bare.upper() in WORDS:
        return WORDS[bare.upper()]
    short = SHORT.fullmatch(bare)
    return NAMES[short[1].upper()] if short else None


def read_number(item: bytes) -> int | None:
    whole = WHOLE.fullmatch(item.strip(b" \t\n\r"))
    return read_integer(whole[1]) if whole else None


def read_integer(digits: bytes) -> int:
    """Anything of 20 digits and more is read as one number that no card holds and no rule asks.

    Python itself refuses to read more than 4,300 digits.
    """
    digits = digits.lstrip(b"0") or b"0"
    return int(digits) if len(digits) < 20 else 10**20


# The formula: text to tokens, tokens to a tree, a tree to a number.


def read_formula(formula: bytes) -> Formula:
    tokens = formula_tokens(formula)
    stated = None
    if "=" in tokens:
        cut = tokens.index("=")
        tokens, right = tokens[:cut], tokens[cut + 1 :]
        if len(right) != 1 or not isinstance(right[0], int):
            raise IllegalError
        stated = right[0]
    return Formula(grow(tokens), [item for item in tokens if isinstance(item, int)], stated)


PLAIN = {char: char for char in "+-*/()= "}  # what the released code reads where JSON escapes it
SIGNS = {
    "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{DIVISION SIGN}": "/", "\N{DIVISION SLASH}": "/",
    "\N{MULTIPLICATION SIGN}": "*", "\N{MIDDLE DOT}": "*", "\N{DOT OPERATOR}": "*",
    "\N{ASTERISK OPERATOR}": "*", "\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " ",
}  # fmt: skip


def unescaped(formula: bytes) -> bytes:
    """With JSON's escapes of symbols undone."""
    formula = formula.replace(rb"\/", b"/")
    for char in (*PLAIN, *SIGNS):
        for digits in (f"{ord(char):04x}", f"{ord(char):04X}"):
            formula = formula.replace(rb"\u" + digits.encode(), char.encode())
    return formula


def plainly(formula: bytes) -> bytes:
    """The formula in ASCII alone, as far as it has symbols that we know."""
    formula = unescaped(formula)
    for name, plain in (("times", b"*"), ("cdot", b"*"), ("ast", b"*"), ("div", b"/")):
        formula = re.sub(rb"\\{1,2}" + name.encode(), plain, formula)
    for sign, plain in SIGNS.items():
        formula = formula.replace(sign.encode(), plain.encode())
    return re.sub(b"[xX]", b"*", formula)


def formula_tokens(formula: bytes) -> list[int | str]:
    """An integer with a leading zero becomes two in a row, which no tree allows."""
    reader, tokens = Reader(plainly(formula)), []
    while (taken := reader.take(FORMULA_TOKEN)) is not None:
        tokens.append(read_integer(taken) if taken.isdigit() else taken.decode())
    if reader.take(END) is None:
        raise IllegalError
    return tokens


def grow(tokens: list[int | str]) -> Tree:
    """The tree of an expression: a list for each open bracket, so that no depth is too deep."""
    levels: list[list] = [[]]
    for item in tokens:
        if item == "(":
            if len(levels) > DEEPEST:
                raise IllegalError
            levels.append([])
        elif item == ")":
            if len(levels) == 1:
                raise IllegalError
            bracketed = run(levels.pop())
            levels[-1].append(bracketed)
        else:
            levels[-1].append(item)
    if len(levels) > 1:
        raise IllegalError
    return run(levels[0])


def run(items: list) -> Tree:
    """Checks operand (operator operand)*; a lone operand is a tree by itself."""
    if len(items) % 2 == 0:
        raise IllegalError
    if any(isinstance(item, str) for item in items[0::2]):
        raise IllegalError
    if any(not isinstance(item, str) for item in items[1::2]):
        raise IllegalError
    return items if len(items) > 1 else items[0]


def value(tree: Tree, divide: Callable) -> Number:
    """`*` and `/` first, then `+` and `-`, each from the left; ZeroDivisionError if it has none.

    `divide` is Fraction for the exact value and truediv for the one that Python's floats give.
    """
    if isinstance(tree, int):
        return tree
    items = [item if isinstance(item, str) else value(item, divide) for item in tree]
    items = apply({"*": operator.mul, "/": divide}, items)
    return apply({"+": operator.add, "-": operator.sub}, items)[0]


def apply(operators: dict[str, Callable], items: list) -> list:
    """Carries out the given operators from left to right and leaves the others standing."""
    done = [items[0]]
    for name, operand in zip(items[1::2], items[2::2], strict=True):
        if name in operators:
            done[-1] = operators[name](done[-1], operand)
        else:
            done += [name, operand]
    return done
