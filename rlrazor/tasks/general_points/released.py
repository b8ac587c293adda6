"""The score that the study's released code gives to a formula, quirks and all.

Reproduced so that its numbers can be compared, from its observable behaviour, for formulas in an
object that our grammar accepts (see `verifier`):

- offences add up: -3 for each token out of place, -2 for a wrong or overused number and another -2
  for an unused one; -3 flat if the formula holds any character but ASCII digits, operators and
  brackets, so also for a space or for a sign that `verifier` reads as an operator;
- what follows `=` is cut off; a leading zero is dropped when numbers are compared;
- a formula that passes is worth +5 if Python's *floats* make it the target, so some exact
  solutions are refused: 0 if the text is one of its solver's own, such as `8/(3-8/3)`, else -1;
- a formula that passes but does not parse is worth +1 if one of its solver's texts begins with it,
  which happens when only the last bracket is missing; everything else is worth -1;
- its solver writes no bracket, one pair around two or more but not all numbers, or `(a?b)?(c?d)`.

It knows hands of four cards only. What stands around the formula is read in our way, not in its:

- it takes a whole text as JSON or else the first `"formula": "..."` in it, we the last object that
  can be read; so of two objects it scores the first, and an echoed template before the answer too;
- without an object that we can read, the score is -3, also where it would find a formula;
- of a picture it reads bare or single-quoted cards in broken JSON only, and gives -1.5 to valid
  JSON; we read both, and give -1.5 where cards are misread and -3 where no object can be read;
- its `\\d` also matches digits of other scripts, which cost -1 there and -3 here.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.tasks.general_points.reader import (
    BLANKS,
    COMPLETE,
    FOREIGN,
    LEADING_ZERO,
    MANY,
    SPELLED,
    Reading,
)
from rlrazor.tasks.general_points.rule import Rule
from rlrazor.tasks.general_points.solver import solutions
from rlrazor.tasks.general_points.trees import Tree, trees
from rlrazor.tasks.general_points.verifier import Findings

CARDS = 4
CORRECT, PARTIAL, NO_SOLUTION, WRONG_NUMBERS, ILLEGAL, MISREAD = 5.0, 1.0, -1.0, -2.0, -3.0, -1.5
OVER_BUDGET = -1.0  # the answer after the last turn, whatever it says


@struct.dataclass
class Refusals:
    """Exact solutions that floats miss under one rule, each as two words; see `_words`."""

    words: jax.Array  # i32[2, K]
    values: jax.Array  # i32[13] of the rule
    target: jax.Array  # i32[] of the rule


def released(findings: Findings, refusals: Refusals, visual: bool) -> jax.Array:  # f32[]
    """The released code's score. With `visual`, misread cards are all that counts."""
    reading, failures = findings.reading, findings.failures
    reused = jnp.any(reading.used > findings.held)
    unused = jnp.any(reading.used < findings.held)
    offences = (
        ILLEGAL * reading.violations
        + WRONG_NUMBERS * (reading.stranger | reused)
        + WRONG_NUMBERS * unused
    )
    refused = jnp.any(
        jnp.all(_words(reading, findings.left_sizes)[:, None] == refusals.words, axis=0)
    )
    plain = reading.flags & (COMPLETE | LEADING_ZERO) == COMPLETE
    own = plain & findings.solves & _in_its_style(reading)
    closed = plain & (reading.unclosed == 0)
    passed = jnp.where(
        closed & findings.solves & ~refused,
        CORRECT,
        jnp.where(own, jnp.where(closed, 0.0, PARTIAL), NO_SOLUTION),
    )
    score = jnp.where(offences < 0, offences, passed)
    score = jnp.where((reading.flags & (BLANKS | FOREIGN | SPELLED)) > 0, ILLEGAL, score)
    score = jnp.where(reading.well_formed, score, ILLEGAL)
    if visual:
        score = jnp.where(failures["cards_misread"], MISREAD, score)
    return jnp.float32(score)


def _in_its_style(reading: Reading) -> jax.Array:  # bool[] at most the last bracket missing
    (opened, first, second), (closed, first_end, second_end) = reading.brackets
    missing = opened - closed
    one_end = jnp.where(missing == 1, CARDS, first_end)
    one = (one_end - first >= 2) & (one_end - first < CARDS)
    two_end = jnp.where(missing == 1, CARDS, second_end)
    two = (first == 0) & (first_end == 2) & (second == 2) & (two_end == CARDS)
    pairs = (opened == 0) | ((opened == 1) & one) | ((opened == 2) & two)
    return (missing >= 0) & (missing <= 1) & (opened < MANY) & pairs


def _words(reading: Reading, left_sizes: jax.Array) -> jax.Array:  # i32[2]
    """Numbers, operators and shape of the formula's tree, packed: the same for no other tree."""
    return jnp.stack(_pack(reading.literals, reading.operators, left_sizes))


def _pack(literals, operators, left_sizes):
    first = literals[0] | literals[1] << 10 | literals[2] << 20
    second = literals[3]
    for at, (operator, size) in enumerate(zip(operators, left_sizes, strict=True)):
        second = second | (operator | (size - 1) << 2) << (10 + 4 * at)
    return first, second


def check_cards(rule: Rule) -> None:
    """Raises ValueError for hands that the released code does not know."""
    if rule.cards != CARDS:
        raise ValueError(
            f"the released scores exist for hands of {CARDS} cards, not of {rule.cards}; "
            "use the reward table PAPER or BINARY"
        )


def check_rule(refusals: Refusals, rule: Rule) -> None:
    """Raises ValueError unless the refusals are those of hands under the rule."""
    check_cards(rule)
    values, target = tuple(np.asarray(refusals.values).tolist()), int(refusals.target)
    if (values, target) != (tuple(rule.values), rule.target):
        raise ValueError(
            f"the rewards are refusals for target={target} and values {values}, but the rule has "
            f"target={rule.target} and values {tuple(rule.values)}; give find_refusals(rule)"
        )


def find_refusals(rule: Rule) -> Refusals:
    """Every solution of every hand under the rule that Python's floats would not call one.

    Made once, on the host, because double precision is not to be had on every device.
    """
    check_cards(rule)
    tables = trees(CARDS)
    numbers = np.array(
        list(itertools.combinations_with_replacement(sorted(set(rule.values)), CARDS)), np.int32
    )
    solved = jax.lax.map(lambda hand: solutions(hand, rule.target), jnp.asarray(numbers))
    hand, ordering, shape, choice = np.nonzero(np.asarray(solved))
    leaves = np.take_along_axis(numbers[hand], tables.permutations[ordering], axis=1)
    operators = tables.operators[choice]
    missed = [np.zeros((2, 0), np.int32)]
    for index, tree in enumerate(tables.shapes):
        rows = shape == index
        floats = _in_floats(tree, leaves[rows].astype(float), operators[rows])
        wrong = floats != rule.target
        sizes = np.broadcast_to(_left_sizes(tree), (int(wrong.sum()), CARDS - 1))
        missed.append(np.stack(_pack(leaves[rows][wrong].T, operators[rows][wrong].T, sizes.T)))
    words = np.unique(np.concatenate(missed, axis=1), axis=1)
    return Refusals(
        words=jnp.asarray(words, jnp.int32),
        values=jnp.asarray(rule.values, jnp.int32),
        target=jnp.int32(rule.target),
    )


def _in_floats(
    tree: Tree,
    leaves: np.ndarray,  # f64[N, C]
    operators: np.ndarray,  # i32[N, C - 1]
) -> np.ndarray:  # f64[N]
    if isinstance(tree, int):
        return leaves[:, tree]
    left, place, right = tree
    a, b = (_in_floats(side, leaves, operators) for side in (left, right))
    with np.errstate(divide="ignore", invalid="ignore"):  # of the operators that are not chosen
        return np.choose(operators[:, place], [a + b, a - b, a * b, a / b])


def _left_sizes(tree: Tree) -> np.ndarray:  # i32[C - 1] leaves in the left operand of each operator
    sizes = np.zeros(CARDS - 1, np.int32)

    def count(tree: Tree) -> int:
        if isinstance(tree, int):
            return 1
        left, place, right = tree
        sizes[place] = count(left)
        return sizes[place] + count(right)

    count(tree)
    return sizes
