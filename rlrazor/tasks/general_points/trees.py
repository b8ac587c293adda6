"""Every expression tree over C cards, as static tables made once on the host.

A formula is a choice of three things: the order of the cards (P = C! of them), the shape of a full
binary tree over C leaves (S = 2, 5 or 14, the Catalan numbers) and an operator at each of the C - 1
places between neighbouring leaves (K = 4^(C - 1) choices). Place m stands between leaves m and
m + 1, whatever the shape, so that it is also where the operator stands in the text.

Two trees whose texts agree once the brackets are dropped that the laws of the four operations make
needless, a + (b - c) = a + b - c and a * (b / c) = a * b / c, are one formula. Of these trees only
the `canonical` one counts, whose text read from left to right gives the tree back.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import numpy as np

from rlrazor.tasks.general_points.pieces import CLOSE, FIRST_OPERATOR, OPEN
from rlrazor.tasks.general_points.rational import OPERATORS

_SUMS, _PRODUCTS = (0, 1), (2, 3)  # codes of + and -, of * and /

Tree = int | tuple["Tree", int, "Tree"]  # a leaf, or (left, place of the operator, right)


@dataclasses.dataclass(frozen=True)
class Trees:
    """All formulas over C cards. Leaf k of a formula in ordering p is card permutations[p, k]."""

    permutations: np.ndarray  # i32[P, C]
    operators: np.ndarray  # i32[K, C - 1] code at each place, in lexicographic order
    shapes: tuple[Tree, ...]  # S trees
    heights: np.ndarray  # i32[S] operators on the longest way from root to leaf
    canonical: np.ndarray  # bool[S, K]
    formulas: np.ndarray  # i32[S, K, 4 * C - 5] pieces, zero padded; -1 - k stands for leaf k


@functools.cache
def trees(cards: int) -> Trees:
    """The tables for hands of 3, 4 or 5 cards."""
    if cards not in (3, 4, 5):
        raise ValueError(f"a hand has {cards} numbers; the tables exist for 3, 4 or 5")
    shapes = tuple(_shapes(0, cards))
    operators = list(itertools.product(range(len(OPERATORS)), repeat=cards - 1))
    # C leaves, C - 1 operators and a pair of brackets around each operator but the root.
    formulas = np.zeros((len(shapes), len(operators), 4 * cards - 5), np.int32)
    for s, shape in enumerate(shapes):
        for k, codes in enumerate(operators):
            pieces = _write(shape, codes)
            formulas[s, k, : len(pieces)] = pieces
    tables = Trees(
        permutations=np.array(list(itertools.permutations(range(cards))), np.int32),
        operators=np.array(operators, np.int32),
        shapes=shapes,
        heights=np.array([_height(shape) for shape in shapes], np.int32),
        canonical=np.array([[_canonical(shape, k) for k in operators] for shape in shapes]),
        formulas=formulas,
    )
    for table in vars(tables).values():
        if isinstance(table, np.ndarray):
            table.setflags(write=False)  # every caller shares it
    return tables


def _shapes(first: int, end: int) -> Iterator[Tree]:
    """Every tree over the leaves first, ..., end - 1."""
    if end - first == 1:
        yield first
    for split in range(first + 1, end):
        for left, right in itertools.product(_shapes(first, split), _shapes(split, end)):
            yield left, split - 1, right


def _height(tree: Tree) -> int:
    return 0 if isinstance(tree, int) else 1 + max(_height(tree[0]), _height(tree[2]))


def _canonical(tree: Tree, codes: tuple[int, ...]) -> bool:
    """Whether nothing to the right of a + is a sum and nothing to the right of a * a product."""
    if isinstance(tree, int):
        return True
    left, place, right = tree
    top, below = codes[place], _code(right, codes)
    needless = (top == 0 and below in _SUMS) or (top == 2 and below in _PRODUCTS)
    return not needless and _canonical(left, codes) and _canonical(right, codes)


def _write(tree: Tree, codes: tuple[int, ...]) -> list[int]:
    """The tree's text with minimal brackets, as pieces and leaf marks."""
    if isinstance(tree, int):
        return [-1 - tree]
    left, place, right = tree
    top, below = codes[place], _code(right, codes)
    weaker = _SUMS if top in _PRODUCTS else ()
    # What follows a - or a / must stay together even where it binds as tightly.
    inverted = {1: _SUMS, 3: _PRODUCTS}.get(top, ())
    return [
        *_bracketed(_write(left, codes), _code(left, codes) in weaker),
        FIRST_OPERATOR + top,
        *_bracketed(_write(right, codes), below in weaker or below in inverted),
    ]


def _code(tree: Tree, codes: tuple[int, ...]) -> int:
    """Code of the tree's last operation; -1 for a leaf."""
    return -1 if isinstance(tree, int) else codes[tree[1]]


def _bracketed(pieces: list[int], needed: bool) -> list[int]:
    return [OPEN, *pieces, CLOSE] if needed else pieces
