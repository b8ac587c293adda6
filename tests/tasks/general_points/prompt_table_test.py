import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrazor.tasks.general_points.prompt_table import factor, stack

SEQUENCES = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=7
)  # so few symbols that ends often agree and overlap


def rebuilt(factored):
    rows = zip(factored.middle, factored.lengths, strict=True)
    return [[*factored.prefix, *row[:n], *factored.suffix] for row, n in rows]


@given(SEQUENCES, st.integers(1, 7))
def test_factored_sequences_are_the_sequences(sequences, size):
    batches = [sequences[i : i + size] for i in range(0, len(sequences), size)]
    factored = factor(iter(batches))
    assert rebuilt(factored) == sequences
    rows = zip(factored.middle, factored.lengths, strict=True)
    assert not any(row[n:].any() for row, n in rows)  # padding is zero


def test_the_longest_shared_ends_are_taken_out():
    factored = factor([[[1, 2, 5, 5, 9], [1, 2, 6, 9]], [[1, 3, 9, 9]]])
    assert factored.prefix.tolist() == [1]
    assert factored.suffix.tolist() == [9]
    np.testing.assert_array_equal(factored.lengths, [3, 2, 2])


def test_batches_that_share_less_get_their_own_back():
    batches = [[[1, 2, 5, 7, 8], [1, 2, 6, 7, 8]], [[1, 3, 5, 9, 8], [1, 3, 6, 9, 8]]]
    factored = factor(batches)
    assert (factored.prefix.tolist(), factored.suffix.tolist()) == ([1], [8])
    assert rebuilt(factored) == [*batches[0], *batches[1]]


@pytest.mark.parametrize("large", [65_535, 65_536])
def test_stacked_wordings_of_unlike_lengths(large):
    wordings = [[[1, 2, 4], [1, 3, 3, 4]], [[large], [7, 8, 9, 9, 9]]]
    table = stack([factor([w]) for w in wordings])
    assert table.middle.dtype == (np.uint16 if large < 2**16 else np.int32)
    assert table.size == 5
    look_up = jax.jit(table.tokens)
    for w, wording in enumerate(wordings):
        for row, expected in enumerate(wording):
            tokens, length = look_up(w, row)
            assert tokens.tolist() == expected + [0] * (5 - len(expected))
            assert length == len(expected)
