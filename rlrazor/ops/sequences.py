"""Rows of tokens put together from ragged parts."""

import chex
import jax
import jax.numpy as jnp


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
