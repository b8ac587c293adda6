"""What the study's released code scores, in plain Python."""

import functools
import itertools
import operator
import re
from collections import Counter
from collections.abc import Collection, Sequence
from fractions import Fraction

from rlrazor.tasks.general_points.rule import Rule
from tests.oracles.points_judge import (
    IllegalError,
    formula_tokens,
    grow,
    read_integer,
    read_object,
    unescaped,
    value,
)


def released_answer_score(
    text: bytes,
    ranks: Sequence[int],
    rule: Rule,
    solutions: Collection[str] | None = None,
    *,
    visual: bool = False,
) -> float:
    """The score of a whole answer; in a visual task a misread hand ends it."""
    fields = read_object(text)
    if fields is None:
        return -3.0
    if visual and Counter(fields.cards) != Counter(ranks):
        return -1.5
    return released_score(unescaped(fields.formula), ranks, rule, solutions)


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
