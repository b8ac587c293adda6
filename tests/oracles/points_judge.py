"""GeneralPoints judged in plain Python: obvious, exact and slow, to prove the device's judge by.

Nothing is evaluated by Python itself: a formula becomes a tree, and a tree a number, in view.
"""

import functools
import itertools
import operator
import re
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from rlrazor.tasks.general_points.rule import RANKS, Rule

FLAGS: tuple[str, ...] = (
    "no_object", "malformed_field", "illegal_formula", "number_not_on_cards", "card_reused",
    "card_unused", "wrong_value", "cards_misread", "numbers_mistranslated", "correct",
)  # fmt: skip

Tree: TypeAlias = "int | list[Tree | str]"  # a list is operand, operator, operand, ...
Number: TypeAlias = int | float | Fraction


class MalformedError(Exception):
    """The object does not hold exactly the three fields."""


class IllegalError(Exception):
    """The formula is not in the grammar."""


class Fields(NamedTuple):
    cards: list[int]  # ranks, 1 = A, ..., 13 = K
    number: list[int]
    formula: bytes


class Formula(NamedTuple):
    tree: Tree
    integers: list[int]  # those left of "="
    stated: int | None  # the one right of "="


def judge(text: bytes, ranks: Sequence[int], rule: Rule) -> dict[str, bool]:
    """Every flag of one answer to the hand `ranks`."""
    flags = dict.fromkeys(FLAGS, False)
    inside = last_object(text)
    if inside is None:
        flags["no_object"] = True
        return flags
    try:
        fields = read_fields(inside)
    except MalformedError:
        flags["malformed_field"] = True
        return flags

    flags["cards_misread"] = sorted(fields.cards) != sorted(ranks)
    translation = [rule.values[rank - 1] for rank in fields.cards]
    flags["numbers_mistranslated"] = len(fields.cards) != rule.cards or sorted(
        fields.number
    ) != sorted(translation)
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
    if formula.stated not in (None, target):
        return False
    try:
        return value(formula.tree, Fraction) == target
    except ZeroDivisionError:
        return False


# The object: braces always count, and every token takes the white space before it.

COMPLETE_OBJECT = re.compile(rb"\{([^{}]*)\}")


def token(pattern: bytes) -> re.Pattern[bytes]:
    """Matches white space and then the pattern, whose last group is the token."""
    return re.compile(rb"[ \t\n\r]*" + pattern)


INTEGER = token(rb"(0|[1-9][0-9]*)")
CARD = token(rb"""(["']?)(10|[A2-9JQK])\1""")
KEY = token(rb'"(cards|number|formula)"')
STRING = token(rb'"([^"]*)"')
COLON, COMMA, OPEN, CLOSE = token(b"(:)"), token(b"(,)"), token(rb"(\[)"), token(rb"(\])")
FORMULA_TOKEN = token(rb"(0|[1-9][0-9]*|[-+*/()=])")
END = token(rb"(\Z)")


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


def last_object(text: bytes) -> bytes | None:
    """What stands between the last "{" and "}" with no brace between them."""
    found = COMPLETE_OBJECT.findall(text)
    return found[-1] if found else None


def read_fields(inside: bytes) -> Fields:
    reader, found = Reader(inside), {}
    while (key := reader.take(KEY)) is not None:
        if key in found:
            raise MalformedError
        reader.need(COLON)
        if key == b"cards":
            found[key] = [RANKS.index(card.decode()) + 1 for card in read_list(reader, CARD)]
        elif key == b"number":
            found[key] = [read_integer(digits) for digits in read_list(reader, INTEGER)]
        else:
            found[key] = reader.need(STRING)
        if reader.take(COMMA) is None:
            break
    reader.need(END)
    if len(found) < 3:
        raise MalformedError
    return Fields(found[b"cards"], found[b"number"], found[b"formula"])


def read_list(reader: Reader, element: re.Pattern[bytes]) -> list[bytes]:
    reader.need(OPEN)
    if reader.take(CLOSE) is not None:
        return []
    elements = [reader.need(element)]
    while reader.take(COMMA) is not None:
        elements.append(reader.need(element))
    reader.need(CLOSE)
    return elements


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


def formula_tokens(formula: bytes) -> list[int | str]:
    """An integer with a leading zero becomes two in a row, which no tree allows."""
    reader, tokens = Reader(formula), []
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


# What the released code scores.


def released_answer_score(
    text: bytes,
    ranks: Sequence[int],
    rule: Rule,
    solutions: Collection[str] | None = None,
    *,
    visual: bool = False,
) -> float:
    """The score of a whole answer; in a visual task a misread hand ends it."""
    inside = last_object(text)
    try:
        fields = read_fields(inside if inside is not None else b"")
    except MalformedError:
        return -3.0
    if visual and sorted(fields.cards) != sorted(ranks):
        return -1.5
    return released_score(fields.formula, ranks, rule, solutions)


def released_score(
    formula: bytes, ranks: Sequence[int], rule: Rule, solutions: Collection[str] | None = None
) -> float:
    """The score of a formula; `solutions` are its solver's, searched here if not given."""
    formula = formula.split(b"=")[0]
    if re.search(rb"[^0-9+\-*/()]", formula):
        return -3.0
    parts = re.findall(rb"[0-9]+|[^0-9]", formula)
    held = [rule.values[rank - 1] for rank in ranks]
    used = [read_integer(part) for part in parts if part.isdigit()]
    score = -3.0 * violations(parts)
    if any(used.count(number) > held.count(number) for number in used):
        score -= 2.0
    if any(used.count(number) < held.count(number) for number in held):
        score -= 2.0
    if score != 0.0:
        return score

    try:
        tree = grow(formula_tokens(formula))
        if value(tree, operator.truediv) == rule.target:
            return 5.0
        raised, may_be_listed = False, value(tree, Fraction) == rule.target
    except (IllegalError, ZeroDivisionError):
        raised, may_be_listed = True, True
    if solutions is None:
        solutions = released_solutions(held, rule.target) if may_be_listed else ()
    if any(solution.startswith(formula.decode()) for solution in solutions):
        return 1.0 if raised else 0.0
    return -1.0


def violations(parts: list[bytes]) -> int:
    """How many tokens stand where they may not; what is left open at the end is not counted."""
    count, previous, depth = 0, "start", 0
    for part in parts:
        if part.isdigit():
            kind, follows = "number", ("start", "operator", "open")
        elif part == b"(":
            kind, follows = "open", ("start", "operator", "open")
        elif part == b")":
            kind, follows = "close", ("number", "close")
        else:
            kind, follows = "operator", ("number", "close")
        if previous not in follows or (kind == "close" and depth == 0):
            count += 1
        elif kind in ("open", "close"):
            depth += 1 if kind == "open" else -1
        previous = kind
    return count


def released_solutions(numbers: Sequence[int], target: int) -> list[str]:
    """The strings that the released solver finds, which lacks most bracketings."""
    return list(_released_solutions(tuple(sorted(numbers)), target))


@functools.cache
def _released_solutions(numbers: tuple[int, ...], target: int) -> tuple[str, ...]:
    found = []
    for ordering in sorted(set(itertools.permutations(numbers))):
        for operators in itertools.product("+-*/", repeat=len(numbers) - 1):
            flat = [*itertools.chain(*zip(ordering, operators, strict=False)), ordering[-1]]
            for tree in bracketings(flat):
                try:
                    if value(tree, Fraction) == target:
                        found.append(spell(tree))
                except ZeroDivisionError:
                    pass
    return tuple(found)


def bracketings(flat: list) -> list[list]:
    """None; one pair around two or more operands but not all; (a?b)?(c?d) on the first four."""
    trees, size = [flat], len(flat)
    for start in range(0, size, 2):
        for stop in range(start + 3, size + 1, 2):
            if stop - start < size:
                trees.append([*flat[:start], flat[start:stop], *flat[stop:]])
    if size >= 7:
        trees.append([flat[0:3], flat[3], flat[4:7], *flat[7:]])
    return trees


def spell(tree: list) -> str:
    return "".join(f"({spell(item)})" if isinstance(item, list) else str(item) for item in tree)
