"""Rows of tokens put together from ragged parts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def prompt_and_answer(
    prompt: jax.Array,  # i32[P] its first `prompt_length` tokens count
    prompt_length: jax.Array,  # i32[]
    answer: jax.Array,  # i32[A]
    answer_length: jax.Array,  # i32[]
    *,
    end: int,  # token behind the answer, which the policy must say too
) -> tuple[jax.Array, jax.Array]:  # i32[P + A + 1] zero padded, bool[P + A + 1] answer and end
    """One training row: the prompt, the answer, the end, and what of it is the policy's to say."""
    chex.assert_rank([prompt, answer], 1)
    place = jnp.arange(len(prompt) + len(answer) + 1)
    in_answer = place - prompt_length
    said = answer[jnp.clip(in_answer, 0, len(answer) - 1)]
    row = jnp.where(in_answer < 0, prompt[jnp.minimum(place, len(prompt) - 1)], said)
    row = jnp.where(in_answer == answer_length, end, row)
    real = in_answer <= answer_length
    return jnp.where(real, row, 0), real & (in_answer >= 0)


def append(
    row: tuple[jax.Array, jax.Array],  # i32[T], i32[] its length so far
    tokens: jax.Array | np.ndarray,  # i32[n]
    count: jax.Array | int,  # i32[] how many of them, the first ones
) -> tuple[jax.Array, jax.Array]:  # i32[T], i32[]
    """The row with the tokens behind it, and its new length; what no longer fits is dropped."""
    before, length = row
    chex.assert_rank([before, tokens], 1)
    place = jnp.arange(len(tokens))
    slots = jnp.where(place < count, length + place, len(before))
    return before.at[slots].set(tokens, mode="drop"), length + count


def between(
    first: jax.Array,  # i32[]
    end: jax.Array,  # i32[] not included
    size: int,
) -> jax.Array:  # bool[size]
    """The places from `first` to before `end`."""
    place = jnp.arange(size)
    return (place >= first) & (place < end)
