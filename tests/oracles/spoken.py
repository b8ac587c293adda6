"""What a task says next, whatever the turn, in one shape: for tests that replay episodes."""

import dataclasses

import jax
import jax.numpy as jnp


def observe(task, state):
    """`opening` before the first answer, `reply` behind it; needs a state that counts turns."""
    first, later = task.opening(state), task.reply(state)
    size = max(len(first.tokens), len(later.tokens))
    first, later = (
        dataclasses.replace(said, tokens=jnp.pad(said.tokens, (0, size - len(said.tokens))))
        for said in (first, later)
    )
    return jax.tree.map(lambda a, b: jnp.where(state.turn == 0, a, b), first, later)
