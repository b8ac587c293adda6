import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.ops import spelling
from rlrazor.ops.spelling import spell

pytestmark = pytest.mark.usefixtures("strict_dtypes")

V, M, N = 9, 5, 12
RNG = np.random.default_rng(0)
TABLE = RNG.integers(1, 200, (V, M))  # what follows a spelling is not zero: it must not show
LENGTHS = np.array([0, 1, 5, 2, 0, 3, 1, 4, 0], np.int32)


jitted = jax.jit(spell, static_argnums=3)


def twin(symbols, table, lengths, size):
    units = [u for s in symbols for u in table[min(max(s, 0), V - 1)][: lengths[s]]][:size]
    return np.array(units + [0] * (size - len(units)), table.dtype), len(units)


def checked(symbols, size, dtype=np.uint8, lengths=LENGTHS):
    table = TABLE.astype(dtype)
    symbols = np.array(symbols, np.int32)
    units, length = jitted(jnp.asarray(symbols), jnp.asarray(table), jnp.asarray(lengths), size)
    expected, expected_length = twin(symbols, table, lengths, size)
    np.testing.assert_array_equal(units, expected)
    assert length == expected_length
    assert (units.dtype, length.dtype) == (dtype, jnp.int32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("size", [64, 17, 1])  # the longest text is 60
def test_against_a_loop(dtype, size):
    for seed in range(10):
        checked(np.random.default_rng(seed).integers(0, V, N), size, dtype)


@pytest.mark.parametrize(
    ("symbols", "size"),
    [
        ([], 4),
        ([1, 2], 0),
        ([0, 4, 8], 4),  # nothing but symbols that spell nothing
        ([0, 2, 0, 0, 3, 8], 7),  # exactly full
        ([2, 2], 7),  # cut within a symbol
    ],
)
def test_edges(symbols, size):
    checked(symbols, size)


def test_an_empty_table_spells_nothing():
    for shape in ((0, 3), (3, 0)):
        out = spell(jnp.zeros(2, jnp.int32), jnp.zeros(shape), jnp.zeros(shape[0], jnp.int32), 4)
        np.testing.assert_array_equal(out[0], np.zeros(4))
        assert out[1] == 0


def test_symbols_and_lengths_out_of_range_are_clipped():
    lengths = np.array([2, *LENGTHS[1:-1], 3], np.int32)
    table, text = jnp.asarray(TABLE), jnp.array([-7, V + 3, 1], jnp.int32)
    found = jitted(text, table, jnp.asarray(lengths), 8)
    expected = jitted(jnp.array([0, V - 1, 1], jnp.int32), table, jnp.asarray(lengths), 8)
    chex.assert_trees_all_equal(found, expected)
    long, length = jitted(jnp.array([1], jnp.int32), table, jnp.full(V, M + 4, jnp.int32), 8)
    np.testing.assert_array_equal(long, [*TABLE[1], 0, 0, 0])
    assert length == M


def test_vmapped_equals_solo_and_traces_once():
    symbols = RNG.integers(0, V, (6, N), np.int32)
    table, lengths = jnp.asarray(TABLE), jnp.asarray(LENGTHS)
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(spelling.spell, n=1), static_argnums=3)
    solo = [traced(s, table, lengths, 20) for s in symbols]
    units, found = jax.jit(jax.vmap(lambda s: spell(s, table, lengths, 20)))(symbols)
    np.testing.assert_array_equal(units, [u for u, _ in solo])
    np.testing.assert_array_equal(found, [n for _, n in solo])


def test_symbols_beyond_the_count_spell_nothing():
    table, lengths = jnp.array([[1, 2], [3, 0]]), jnp.array([2, 1])
    out, length = spell(jnp.array([1, 0, 0, 1]), table, lengths, 8, jnp.int32(2))
    assert out.tolist() == [3, 1, 2, 0, 0, 0, 0, 0]
    assert length == 3
    assert spell(jnp.array([1, 0]), table, lengths, 4, jnp.int32(0))[1] == 0
