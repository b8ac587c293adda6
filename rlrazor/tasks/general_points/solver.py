"""Solves GeneralPoints on the device: every formula over every ordering of a hand, exactly.

Written for one hand, vmap adds more. A formula is named by three indices into `trees`: ordering p,
shape s and operators k; tables over all of them are bool[P, S, K]. The hand's numbers and the
target must satisfy the bound of a Rule, which keeps the arithmetic of `rational` exact.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.tasks.general_points.pieces import FIRST_NUMBER
from rlrazor.tasks.general_points.rational import OPERATORS, combine, equals
from rlrazor.tasks.general_points.trees import Tree, trees


def solutions(
    values: jax.Array,  # i32[C] the hand's numbers
    target: jax.Array | int,  # i32[]
) -> jax.Array:  # bool[P, S, K]
    """Which formulas have exactly the target's value, each tree for itself, canonical or not."""
    chex.assert_rank(values, 1)
    leaves = values[trees(len(values)).permutations.T]
    flat = [reaches.reshape(-1, reaches.shape[-1]).T for reaches in _reaching(leaves, target)]
    return jnp.stack(flat, axis=1)


def distinct(
    values: jax.Array,  # i32[C]
    solved: jax.Array,  # bool[P, S, K]
) -> jax.Array:  # bool[P, S, K]
    """Of the formulas in `solved`, one for each text that minimal brackets give.

    It drops the trees that are not canonical, and of the orderings that only swap equal numbers all
    but the one that leaves equal numbers in the order of the hand.
    """
    chex.assert_rank([values, solved], [1, 3])
    canonical = jnp.asarray(trees(len(values)).canonical)
    return solved & canonical[None] & _first_of_equal_orderings(values)[:, None, None]


def count_solutions(
    values: jax.Array,  # i32[C]
    target: jax.Array | int,  # i32[]
) -> jax.Array:  # i32[]
    """The number of distinct formulas, as texts with minimal brackets, that give the target."""
    return jnp.sum(_solutions_of_trees(values, target))


def is_solvable(
    values: jax.Array,  # i32[C]
    target: jax.Array | int,  # i32[]
) -> jax.Array:  # bool[]
    """Whether any formula over the hand gives the target."""
    return count_solutions(values, target) > 0


def solve_hands(
    hands: jax.Array,  # i32[N, C] the numbers of N hands
    target: jax.Array | int,  # i32[]
    *,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:  # bool[N] solvable, i32[N] distinct formulas
    """Solves any number of hands in the memory of `chunk` of them: a vmap inside a loop.

    A CPU is as fast with a chunk of 1 as with any; an accelerator wants as many as fit.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1 hand")
    N, C = hands.shape
    padded = jnp.pad(hands, ((0, -N % chunk), (0, 0))).reshape(-1, chunk, C)
    _, counts = jax.lax.scan(_solve_chunk, jnp.int32(target), padded)
    counts = counts.reshape(-1)[:N]
    return counts > 0, counts


def _solve_chunk(target: jax.Array, hands: jax.Array) -> tuple[jax.Array, jax.Array]:
    # A function of the module, so that what was compiled for one deck serves the next.
    return target, jax.vmap(count_solutions, in_axes=(0, None))(hands, target)


def sample_solution(
    key: jax.Array,
    values: jax.Array,  # i32[C]
    target: jax.Array | int,  # i32[]
    height_weights: jax.Array,  # i32[C] at least 0; how likely a formula of each height is
) -> jax.Array:  # i32[4 * C - 5] pieces
    """A formula drawn among the distinct solutions, in proportion to the weight of its height.

    The height is that of its tree, the operators on the longest way from root to leaf (2 or 3 on
    four cards); all weights 1 draws uniformly. Weights that admit no solution of this hand are
    taken as all 1, and a hand without solutions gives zeros only, the empty text. The draw is an
    integer: the weights of all solutions must add up to less than 2^31, as weights up to 4,000 do.
    """
    chex.assert_shape([values, height_weights], (len(values),))
    tables = trees(len(values))
    counts = _solutions_of_trees(values, target)
    weights = height_weights[tables.heights]
    weights = jnp.where(jnp.any(counts * weights[:, None] > 0), weights, 1)

    # Inverse of the cumulated weights, first over (shape, ordering), then over their operators.
    mass = (counts * weights[:, None]).reshape(-1)
    ends = jnp.cumsum(mass)
    draw = jax.random.randint(key, (), 0, jnp.maximum(ends[-1], 1))
    row = jnp.argmax(ends > draw)
    s, p = jnp.divmod(row, counts.shape[1])
    nth = (draw - (ends[row] - mass[row])) // jnp.maximum(weights[s], 1)
    # Solved again for this ordering alone, so that no table of all formulas is ever kept.
    leaves = values[jnp.asarray(tables.permutations)[p]][:, None]
    reaches = jnp.stack([table.reshape(-1) for table in _reaching(leaves, target)])
    k = jnp.argmax(jnp.cumsum((reaches & tables.canonical)[s]) > nth)
    return jnp.where(ends[-1] > 0, formula_pieces(values, p, s, k), 0)


def formula_pieces(
    values: jax.Array,  # i32[C]
    permutation_index: jax.Array,  # i32[] p
    shape_index: jax.Array,  # i32[] s
    operators_index: jax.Array,  # i32[] k
) -> jax.Array:  # i32[4 * C - 5]
    """The formula as pieces with minimal brackets, zero padded at the end."""
    chex.assert_rank(values, 1)
    tables = trees(len(values))
    numbers = values[jnp.asarray(tables.permutations)[permutation_index]]
    template = jnp.asarray(tables.formulas)[shape_index, operators_index]
    leaf = jnp.maximum(-1 - template, 0)
    return jnp.where(template < 0, FIRST_NUMBER + numbers[leaf], template)


def _solutions_of_trees(
    values: jax.Array,  # i32[C]
    target: jax.Array | int,  # i32[]
) -> jax.Array:  # i32[S, P]
    """The number of distinct solutions of each shape and ordering."""
    chex.assert_rank(values, 1)
    tables = trees(len(values))
    counts = []
    by_shape = _reaching(values[tables.permutations.T], target)
    for reaches, canonical in zip(by_shape, tables.canonical, strict=True):
        kept = reaches & canonical.reshape(*reaches.shape[:-1], 1)
        counts.append(jnp.sum(kept, axis=range(kept.ndim - 1), dtype=jnp.int32))
    return jnp.where(_first_of_equal_orderings(values)[None], jnp.stack(counts), 0)


def _reaching(
    leaves: jax.Array,  # i32[C, P] numbers in their orderings, all P of them or a few
    target: jax.Array | int,  # i32[]
) -> list[jax.Array]:  # S of bool[4, ..., 4, P]
    """For each shape whether the target is reached: the operator at each place, then the ordering.

    Inside, an axis has length 1 until the operator at its place is applied: a sub-expression is
    computed once for all operators elsewhere, and broadcasting does the enumeration.
    """
    C, P = leaves.shape
    leaves = leaves.reshape(C, *[1] * (C - 1), P)

    @functools.cache  # shapes share sub-trees
    def evaluate(tree: Tree) -> tuple[jax.Array, jax.Array]:
        if isinstance(tree, int):
            return leaves[tree], jnp.ones_like(leaves[tree])
        left, place, right = tree
        codes = jnp.arange(len(OPERATORS), dtype=jnp.int32)
        codes = codes.reshape([-1 if axis == place else 1 for axis in range(C)])
        return combine(evaluate(left), evaluate(right), codes)

    return [equals(evaluate(shape), target) for shape in trees(C).shapes]


def _first_of_equal_orderings(values: jax.Array) -> jax.Array:  # bool[P]
    """Orderings in which equal numbers stand in the order of the hand."""
    permutations = trees(len(values)).permutations
    earlier, later = np.array(list(itertools.combinations(range(len(values)), 2))).T
    place_of_card = np.argsort(permutations, axis=1)
    swapped = place_of_card[:, earlier] > place_of_card[:, later]  # bool[P, pairs]
    equal = values[earlier] == values[later]
    return ~jnp.any(jnp.asarray(swapped) & equal[None], axis=-1)
