"""Prompts whose answers are judged elsewhere, such as on the host, as a task like any other."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.tasks.protocol import Observation, Verdict


@struct.dataclass
class PromptState:
    """A prompt, and whether it was answered."""

    tokens: jax.Array  # i32[T] zero padded
    count: jax.Array  # i32[] real tokens, the first ones
    terminated: jax.Array  # bool[]
    truncated: jax.Array  # bool[]


@dataclasses.dataclass(frozen=True)
class PromptTask:
    """One question, one answer, no judgement: `Rollout.tokens` go to who judges them."""

    def deal(
        self,
        tokens: jax.Array,  # i32[P, T] zero padded
        count: jax.Array,  # i32[P]
    ) -> PromptState:  # [P]
        """The states to be played."""
        no = jnp.zeros(count.shape, bool)
        return PromptState(jnp.asarray(tokens, jnp.int32), jnp.asarray(count, jnp.int32), no, no)

    def reset(self, key: jax.Array) -> PromptState:
        raise ValueError(
            "prompts are not drawn from a key; play the states that PromptTask().deal(tokens, "
            "count) gives"
        )

    def opening(self, state: PromptState) -> Observation:
        return Observation(state.tokens, state.count)

    def reply(self, state: PromptState) -> Observation:
        return Observation(jnp.zeros(1, jnp.int32), jnp.int32(0))

    def step(self, state: PromptState, answer: jax.Array) -> tuple[PromptState, Verdict]:
        answered = dataclasses.replace(state, terminated=jnp.bool_(True))
        return answered, Verdict(jnp.float32(0), jnp.bool_(False))
