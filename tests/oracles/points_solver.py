"""A slow twin of the GeneralPoints solver: `fractions`, recursion over sets of cards, no tables."""

import functools
import itertools
from fractions import Fraction

Node = int | tuple["Node", str, "Node"]


def formulas(numbers: tuple[int, ...], target: int) -> set[str]:
    """The text, with as few brackets as possible, of every formula that gives the target.

    Each number is used once. A text that several trees share, 1+2+3 say, is there once.
    """
    return {text(tree) for value, tree in expressions(tuple(sorted(numbers))) if value == target}


@functools.lru_cache(maxsize=4096)
def expressions(numbers: tuple[int, ...]) -> list[tuple[Fraction, Node]]:
    """Value and tree of everything that can be built from all the numbers."""
    if len(numbers) == 1:
        return [(Fraction(numbers[0]), numbers[0])]
    found = []
    for left, right in two_parts(numbers):
        for (a, x), (b, y) in itertools.product(expressions(left), expressions(right)):
            found += [(a + b, (x, "+", y)), (a - b, (x, "-", y)), (a * b, (x, "*", y))]
            if b:
                found.append((a / b, (x, "/", y)))
    return found


def two_parts(numbers: tuple[int, ...]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to split a multiset into two that are not empty, in either order."""
    parts = set()
    for chosen in itertools.product([True, False], repeat=len(numbers)):
        if any(chosen) and not all(chosen):
            left = tuple(n for n, c in zip(numbers, chosen, strict=True) if c)
            right = tuple(n for n, c in zip(numbers, chosen, strict=True) if not c)
            parts.add((left, right))
    return parts


def text(tree: Node) -> str:
    """Prints a tree; brackets stand only where dropping them could change the value."""
    if isinstance(tree, int):
        return str(tree)
    left, operator, right = tree
    before, after = text(left), text(right)
    if operator in "*/" and last_operator(left) in ("+", "-"):
        before = f"({before})"
    if (
        last_operator(right)
        in {"+": (), "-": ("+", "-"), "*": ("+", "-"), "/": tuple("+-*/")}[operator]
    ):
        after = f"({after})"
    return before + operator + after


def last_operator(tree: Node) -> str | None:
    return None if isinstance(tree, int) else tree[1]
