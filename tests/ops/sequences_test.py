import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrazor.ops.sequences import append, prompt_and_answer

P, A, T, END = 5, 4, 8, 99
join = jax.jit(lambda *parts: prompt_and_answer(*parts, end=END))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 50), max_size=P), st.lists(st.integers(1, 50), max_size=A))
def test_joins_as_lists_do(prompt, answer):
    padded = [jnp.array(part + [77] * (n - len(part))) for part, n in ((prompt, P), (answer, A))]
    row, chosen = join(padded[0], len(prompt), padded[1], len(answer))
    expected = [*prompt, *answer, END]
    assert row.tolist() == expected + [0] * (P + A + 1 - len(expected))
    mask = [False] * len(prompt) + [True] * (len(answer) + 1)
    np.testing.assert_array_equal(chosen, mask + [False] * (P + A + 1 - len(mask)))


behind = jax.jit(lambda row, length, tokens, count: append((row, length), tokens, count))
numbers = st.lists(st.integers(1, 50), max_size=P)


@settings(max_examples=50)
@given(numbers, numbers, st.integers(0, P))
def test_appends_as_lists_do_and_drops_what_no_longer_fits(before, tokens, count):
    row = jnp.array(before + [77] * (T - len(before)))
    padded = jnp.array(tokens + [88] * (P - len(tokens)))
    count = min(count, len(tokens))
    longer, length = behind(row, len(before), padded, count)
    expected = [*before, *tokens[:count], *[77] * T][:T]
    assert longer.tolist() == expected
    assert length == len(before) + count


def test_appending_is_exact_at_the_end_of_the_row():
    row, more = jnp.arange(4), jnp.array([10, 11, 12])
    for length, count, expected in (
        (4, 3, [0, 1, 2, 3]),
        (3, 3, [0, 1, 2, 10]),
        (2, 2, [0, 1, 10, 11]),
        (9, 1, [0, 1, 2, 3]),
        (0, 0, [0, 1, 2, 3]),
    ):
        longer, after = behind(row, length, more, count)
        assert longer.tolist() == expected
        assert after == length + count


def test_rows_of_a_batch_grow_by_counts_of_their_own():
    rows, lengths = jnp.zeros((3, 5), jnp.int32), jnp.array([0, 1, 2])
    tokens = jnp.arange(1, 7).reshape(3, 2)
    longer, after = jax.jit(jax.vmap(append))((rows, lengths), tokens, jnp.array([2, 0, 1]))
    assert longer.tolist() == [[1, 2, 0, 0, 0], [0] * 5, [0, 0, 5, 0, 0]]
    assert after.tolist() == [2, 1, 3]
