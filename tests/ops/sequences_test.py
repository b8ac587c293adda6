import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrazor.ops.sequences import prompt_and_answer

P, A, END = 5, 4, 99
join = jax.jit(lambda *parts: prompt_and_answer(*parts, end=END))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=P), st.lists(st.integers(1, 50), max_size=A))
def test_joins_as_lists_do(prompt, answer):
    padded = [jnp.array(part + [77] * (n - len(part))) for part, n in ((prompt, P), (answer, A))]
    row, chosen = join(padded[0], len(prompt), padded[1], len(answer))
    expected = [*prompt, *answer, END]
    assert row.tolist() == expected + [0] * (P + A + 1 - len(expected))
    mask = [False] * len(prompt) + [True] * (len(answer) + 1)
    np.testing.assert_array_equal(chosen, mask + [False] * (P + A + 1 - len(mask)))
