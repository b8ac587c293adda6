"""The solver against its twin in fractions, the known counts, and Python's own grammar."""

import ast
import collections
import functools
import itertools
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlrazor.tasks.general_points import solver
from rlrazor.tasks.general_points.rule import Rule
from rlrazor.tasks.general_points.trees import trees
from tests.oracles import points_solver

PIECES = {0: "", **dict(enumerate("+-*/()", start=1)), **{32 + n: str(n) for n in range(1024)}}

BATCH, DRAWS = 512, 1000

solve_hands = jax.jit(solver.solve_hands, static_argnames="chunk")


@jax.jit
def find(values, target):
    found = solver.distinct(values, solver.solutions(values, target))
    solvable = solver.is_solvable(values, target)
    return found, solver.count_solutions(values, target), solvable


@jax.jit
def write(values, indices):
    return jax.vmap(functools.partial(solver.formula_pieces, values))(*indices)


@jax.jit
def draw(keys, values, target, height_weights):
    sample = functools.partial(
        solver.sample_solution, values=values, target=target, height_weights=height_weights
    )
    return jax.vmap(sample)(keys)


def text(pieces):
    return "".join(PIECES[piece] for piece in np.asarray(pieces).tolist())


def texts_of(hand, target):
    """Every formula that the device counts; none may be there twice."""
    values = jnp.array(hand, jnp.int32)
    found, count, solvable = find(values, target)
    texts = written(values, np.argwhere(found))
    assert len(set(texts)) == len(texts) == count
    assert solvable == (count > 0)
    return texts


def written(values, indices):
    """The texts of many formulas, in batches of one size and hence one compilation."""
    texts = []
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        padded = np.pad(batch, ((0, BATCH - len(batch)), (0, 0)))
        texts += [text(row) for row in np.asarray(write(values, tuple(padded.T)))[: len(batch)]]
    return texts


def sample(hand, weights):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    pieces = draw(keys, jnp.array(hand, jnp.int32), 24, jnp.array(weights, jnp.int32))
    return collections.Counter(text(row) for row in pieces)


def hands_of(size, highest):
    hands = itertools.combinations_with_replacement(range(1, highest + 1), size)
    return jnp.array(list(hands), jnp.int32)


def exact_value(node):
    """Value of a parsed formula; None where it divides by zero."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return Fraction(node.value)
    assert isinstance(node, ast.BinOp)
    left, right = exact_value(node.left), exact_value(node.right)
    if left is None or right is None or (isinstance(node.op, ast.Div) and right == 0):
        return None
    operate = {
        ast.Add: Fraction.__add__,
        ast.Sub: Fraction.__sub__,
        ast.Mult: Fraction.__mul__,
        ast.Div: Fraction.__truediv__,
    }
    return operate[type(node.op)](left, right)


def height(node):
    return 1 + max(height(node.left), height(node.right)) if isinstance(node, ast.BinOp) else 0


def test_as_many_hands_of_four_are_solvable_as_is_known():
    hands = hands_of(4, 13)
    solvable, counts = solve_hands(hands, 24, chunk=8)
    assert (int(solvable.sum()), len(hands)) == (1362, 1820)
    to_ten = np.asarray(hands).max(axis=1) <= 10
    assert (int(solvable[to_ten].sum()), to_ten.sum()) == (566, 715)
    np.testing.assert_array_equal(solvable, counts > 0)


def test_the_hand_that_floats_get_wrong():
    assert texts_of((3, 3, 8, 8), 24) == ["8/(3-8/3)"]
    assert points_solver.formulas((3, 3, 8, 8), 24) == {"8/(3-8/3)"}


@pytest.mark.parametrize(
    ("size", "hands"),
    [
        (3, [(2, 2, 2), (0, 0, 0), (0, 24, 1), (12, 2, 12), (0, 5, 5), (8, 0, 3)]),
        (4, [(6, 6, 6, 6), (0, 4, 6, 0), (0, 0, 0, 0), (0, 24, 24, 1), (1, 1, 1, 1)]),
        (5, [(3, 3, 8, 8, 0)]),
    ],
    ids=["three", "four", "five"],
)
def test_the_device_finds_the_texts_of_the_twin_each_once(size, hands):
    cases = [(hand, 24) for hand in hands]
    if size < 5:
        random = np.random.default_rng(size).integers(0, 14, (10, size)).tolist()
        cases += [(tuple(hand), 24) for hand in random]
        cases += [(hands[0], target) for target in (0, 1, 2)]
    for hand, target in cases:
        assert set(texts_of(hand, target)) == points_solver.formulas(hand, target), hand


@pytest.mark.parametrize("cards", [3, 4, 5])
def test_every_text_reads_back_as_its_tree_with_no_bracket_to_spare(cards):
    """Python's grammar is ours; its printer sets only the brackets that the tree needs."""
    tables = trees(cards)
    assert len(tables.shapes) == {3: 2, 4: 5, 5: 14}[cards]
    longest = 0
    # Every tree that counts, the order of the cards being of no consequence here.
    for s, k in np.argwhere(tables.canonical):
        pieces = tables.formulas[s, k]
        formula = text(np.where(pieces < 0, 32 + 1 - pieces, pieces))
        node = ast.parse(formula, mode="eval").body
        assert ast.unparse(node).replace(" ", "") == formula
        assert height(node) == tables.heights[s]
        assert [c for c in formula if c in "+-*/"] == ["+-*/"[code] for code in tables.operators[k]]
        longest = max(longest, np.count_nonzero(pieces))
    assert longest == tables.formulas.shape[-1]
    # Every other tree is written as one of these, and no two of these alike.
    kept = {tuple(pieces) for pieces in tables.formulas[tables.canonical].tolist()}
    assert len(kept) == tables.canonical.sum()
    assert {tuple(pieces) for pieces in tables.formulas[~tables.canonical].tolist()} <= kept


@pytest.mark.parametrize("hand", [(2, 3, 5, 7), (0, 1, 1, 2)])
def test_every_tree_has_the_value_of_its_text(hand):
    """Also of trees that are not canonical, and of those that divide by zero."""
    values = jnp.array(hand, jnp.int32)
    solutions = jax.jit(solver.solutions)
    reached = {t: np.asarray(solutions(values, t)) for t in range(25)}
    indices = np.argwhere(np.ones(reached[0].shape))[::7]  # 7 divides neither 5 nor 64
    for (p, s, k), formula in zip(indices, written(values, indices), strict=True):
        value = exact_value(ast.parse(formula, mode="eval").body)
        assert [t for t in reached if reached[t][p, s, k]] == [t for t in reached if t == value]


@pytest.mark.parametrize("weight", [1, 4000])  # the largest that the docstring promises
def test_samples_are_uniform_over_the_solutions(weight):
    members = points_solver.formulas((1, 4, 6, 6), 24)
    seen = sample((1, 4, 6, 6), [weight] * 4)
    assert len(members) == 10
    assert set(seen) <= members
    assert stats.chisquare([seen[member] for member in members]).pvalue > 1e-3


@pytest.mark.parametrize("weights", [[9, 9, 1, 3], [0, 0, 1, 0], [0, 0, 0, 5]])
def test_samples_follow_the_weights_of_heights(weights):
    members = sorted(points_solver.formulas((3, 8, 8, 9), 24))
    heights = [height(ast.parse(member, mode="eval").body) for member in members]
    assert sorted(set(heights)) == [2, 3]
    mass = {m: weights[h] for m, h in zip(members, heights, strict=True) if weights[h]}
    seen = sample((3, 8, 8, 9), weights)
    assert set(seen) <= set(mass)
    expected = DRAWS * np.array(list(mass.values())) / sum(mass.values())
    assert stats.chisquare([seen[member] for member in mass], expected).pvalue > 1e-3


def test_weights_that_admit_no_solution_are_taken_as_uniform():
    hand = (3, 8, 8, 9)
    assert sample(hand, [7, 7, 0, 0]) == sample(hand, [0] * 4) == sample(hand, [1] * 4)


def test_a_hand_without_solutions_gives_the_empty_text():
    assert texts_of((1, 1, 1, 1), 24) == []
    assert points_solver.formulas((1, 1, 1, 1), 24) == set()
    assert sample((1, 1, 1, 1), [1, 1, 1, 1]) == {"": DRAWS}


@pytest.mark.parametrize(
    ("hand", "target", "highest_target"),
    [
        ((95, 95, 95, 95), 24, 24),
        ((95, 94, 93, 92), 1, 24),
        ((20, 20, 20, 20), 20**3 - 20, 11041),
        ((999, 998, 1), 1, 1),
        ((999, 998, 999), 0, 1),
    ],
)
def test_arithmetic_is_exact_at_the_bound_that_a_rule_sets(hand, target, highest_target):
    Rule(values=(max(hand),) * 13, cards=len(hand), target=highest_target)
    with pytest.raises(ValueError, match="overflow"):
        Rule(values=(max(hand),) * 13, cards=len(hand), target=highest_target + 1)
    assert set(texts_of(hand, target)) == points_solver.formulas(hand, target)


def test_many_hands_are_each_as_one_alone_and_trace_once():
    hands = hands_of(3, 13)[::45]
    chex.clear_trace_counter()
    solo = jax.jit(chex.assert_max_traces(solver.count_solutions, n=1))
    for target in (24, 10):
        alone = [int(solo(hand, target)) for hand in hands]
        for chunk in (4, 64):  # the last is not full, or larger than all there is
            assert solve_hands(hands, target, chunk=chunk)[1].tolist() == alone

    keys = jax.random.split(jax.random.key(3), len(hands))
    weights = jnp.ones(3, jnp.int32)
    one = jax.jit(chex.assert_max_traces(solver.sample_solution, n=1))
    batch = jax.jit(jax.vmap(solver.sample_solution, in_axes=(0, 0, None, None)))
    alone = np.stack([one(key, hand, 24, weights) for key, hand in zip(keys, hands, strict=True)])
    np.testing.assert_array_equal(batch(keys, hands, 24, weights), alone)


@pytest.mark.parametrize("size", [2, 6])
def test_other_numbers_of_cards_are_refused(size):
    with pytest.raises(ValueError, match=f"{size} numbers; the tables exist for 3, 4 or 5"):
        solver.count_solutions(jnp.ones(size, jnp.int32), 24)


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk=0 must be at least 1"):
        solver.solve_hands(jnp.ones((3, 4), jnp.int32), 24, chunk=0)
