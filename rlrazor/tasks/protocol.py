"""What a task is to whoever plays it: three pure functions of one example; `vmap` makes a batch.

A bandit such as parity needs the Verdict only.
"""

import dataclasses
from typing import Any, Protocol

import jax
from flax import struct


@struct.dataclass
class Verdict:
    """The judgement of one answer. A judge never raises: bad input is a verdict, not an error."""

    reward: jax.Array  # f32[]
    correct: jax.Array  # bool[]
    # bool[] one named flag a thing that went wrong
    failures: dict[str, jax.Array] = dataclasses.field(default_factory=dict)


@struct.dataclass
class Observation:
    """What the task says before the next answer, and only that: the player keeps what was said."""

    tokens: jax.Array  # i32[T] zero padded
    length: jax.Array  # i32[]
    image: jax.Array | None = None  # u8[H, W, 3] what there is to see, at every turn


class State(Protocol):
    """An example under way. At most one of the two is true, and then it is over."""

    terminated: jax.Array  # bool[] the task has come to its end: no later reward exists
    truncated: jax.Array  # bool[] the budget is spent: a later turn might still have succeeded


class Task(Protocol):
    """Rules are data in the task or its state, so that two rules are not two code paths."""

    def reset(self, key: jax.Array) -> Any:
        """A new State."""
        ...

    def observe(self, state: Any) -> Observation:
        """What is said and shown next."""
        ...

    def step(self, state: Any, answer: jax.Array) -> tuple[Any, Verdict]:
        """Judges an answer, u8[T] bytes padded with zeros. An example that is over stays over."""
        ...
