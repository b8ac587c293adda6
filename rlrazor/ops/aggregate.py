"""Three ways to make one number of a loss per token; an algorithm's name often hides which.

In a batch of S answers and N tokens, a token of an answer of n tokens weighs:

| function | weight of a token | found in |
|---|---|---|
| `token_mean` | 1 / N, the same in every answer | DAPO (arXiv 2503.14476) |
| `sequence_mean` | 1 / (S n), less in long answers | GRPO (arXiv 2402.03300) |
| `scaled_sum` | 1 / (S length), the same in every batch | Dr. GRPO (arXiv 2503.20783) |

A row with no kept token is padding, not an answer: it is not among the S.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops.masked import masked_mean

Aggregate = Callable[[jax.Array, jax.Array], jax.Array]  # (f32[B, T], bool[B, T]) -> f32[]


def token_mean(
    x: jax.Array,  # f32[B, T]
    mask: jax.Array,  # bool[B, T]
) -> jax.Array:  # f32[]
    """Mean over the kept tokens of the batch."""
    chex.assert_rank(x, 2)
    return masked_mean(x, mask)


def sequence_mean(
    x: jax.Array,  # f32[B, T]
    mask: jax.Array,  # bool[B, T]
) -> jax.Array:  # f32[]
    """Mean over the sequences of the mean over their kept tokens."""
    chex.assert_rank(x, 2)
    chex.assert_equal_shape([x, mask])
    return masked_mean(jax.vmap(masked_mean)(x, mask), jnp.any(mask, axis=-1))


def scaled_sum(
    x: jax.Array,  # f32[B, T]
    mask: jax.Array,  # bool[B, T]
    *,
    length: float | jax.Array,  # a constant such as the longest answer allowed; 1 = plain sums
) -> jax.Array:  # f32[]
    """Mean over the sequences of the sum over their kept tokens, divided by `length`.

    With `length=1` the loss of a sequence is the sum of its tokens', as in log pi(y); only sums
    give the exact policy gradient of answers that differ in length.
    """
    chex.assert_rank(x, 2)
    chex.assert_equal_shape([x, mask])
    sums = jnp.sum(jnp.where(mask, x.astype(jnp.float32), 0.0), axis=-1)
    return masked_mean(sums, jnp.any(mask, axis=-1)) / length
