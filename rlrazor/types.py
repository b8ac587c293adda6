"""Axis legend and the few types that cross folders.

Capital dimension names mean the same thing in every file:

| name | axis | name | axis |
|---|---|---|---|
| R | runs of a sweep | T | tokens of an answer |
| B | prompts of a batch | V | vocabulary (or classes) |
| G | samples per prompt | D | width of a representation |
| C | cards of a hand | K | turns of an episode |
| N | examples of a data set | L | layers |

Write for one run; `vmap` adds R. Index axes from the right.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from flax import struct

Params = Any  # pytree of arrays
Metrics = dict[str, jax.Array]
LossFn = Callable[[Params, Any, jax.Array], tuple[jax.Array, Metrics]]  # (params, batch, key)

FloatName = Literal["float32", "bfloat16"]
Axes = tuple[str | tuple[str, ...] | None, ...]  # the mesh axes that cut each dimension
ROWS = ("data", "fsdp")  # those that cut the rows of a batch


@struct.dataclass
class Turns:
    """The K turns of every episode of a batch."""

    played: jax.Array  # bool[B, K]
    start: jax.Array  # i32[B, K] place of the turn's first sampled token
    rewards: jax.Array  # f32[B, K]
    of_token: jax.Array  # i32[B, T] turn in which a token was sampled; -1 elsewhere


@struct.dataclass
class Critique:
    """What a critic says of every turn."""

    advantages: jax.Array  # f32[B, K]
    targets: jax.Array  # f32[B, K]
    values: jax.Array  # f32[B, K] when the turn was played


@struct.dataclass
class Rows:
    """The one batch: rows to learn from or to measure on. What a source does not have is None.

    Real tokens come first, padding last. Rows of one prompt follow each other.
    """

    tokens: jax.Array  # i32[B, T]
    count: jax.Array  # i32[B] real tokens
    mask: jax.Array  # bool[B, T] response mask: tokens that the policy says
    prompt_count: jax.Array | None = None  # i32[B] tokens of the prompt, before all that is said
    behaviour_logprobs: jax.Array | None = None  # f32[B, T] of the distribution really sampled
    rewards: jax.Array | None = None  # f32[B] of the episode
    correct: jax.Array | None = None  # bool[B] whether the judge called any of its answers right
    stopped: jax.Array | None = None  # bool[B] no answer was truncated by the limit
    advantages: jax.Array | None = None  # f32[B]
    turns: Turns | None = None
    rejected: "Rows | None" = None  # a wrong answer to the same prompt
    anchor: "Rows | None" = None  # what the base says to another prompt, as many rows
    demonstrated: "Rows | None" = None  # the same answer behind an in-context demonstration
    old_logprobs: jax.Array | None = None  # f32[B, T] of the policy when the iteration began
    base_logprobs: jax.Array | None = None  # f32[B, T]
    token_weights: jax.Array | None = None  # f32[B, T] of each token's loss, 0 outside the mask
    teacher_logprobs: jax.Array | None = None  # f32[B, T]
    critique: Critique | None = None
    # Most tokens of a prompt; behind it, a row has at most the other T - prompt_size. 0: unknown.
    prompt_size: int = struct.field(pytree_node=False, default=0)
    samples: int = struct.field(
        pytree_node=False, default=1
    )  # G rows of a prompt follow each other


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the arrays of a tree whose path ends so lie on a mesh."""

    ending: str  # regular expression for whole steps of the path, as in "mlp/(gate|up)/kernel"
    axes: Axes  # one for each dimension; () for arrays of any rank that every device has whole
    heads: int | None = None  # of which the axis "tensor" must cut none in two


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a model is told of the devices; it knows no mesh. `runtime.mesh.layout` makes one."""

    platform: str  # "cpu", "gpu" or "tpu"
    # From here on, the array lies so.
    constrain: Callable[[jax.Array, Axes], jax.Array]
    # (fn, axes of the arguments, of the result): fn of the parts that each device holds.
    on_parts: Callable[[Callable, tuple[Axes, ...], Axes], Callable]
    # fn(shared, rows) -> rows, for each group of rows by itself; see `runtime.mesh.on_rows`.
    on_rows: Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """How a model's tokenizer spells text, for tasks that make their tables with it.

    Each raises ValueError for a text that it cannot spell exactly.
    """

    encode_batch: Callable[[Sequence[str]], Sequence[Sequence[int]]]  # texts that stand alone
    encode_inside: Callable[[str], Sequence[int]]  # a text that follows another
    decode: Callable[[Sequence[int]], str]
    # What the environment says in a later turn, with all that a model reads before its next answer;
    # None where that is the text alone, which is then a text inside.
    encode_reply: Callable[[str], Sequence[int]] | None = None
    # Before and behind a text made of pieces that is said to a model as a whole prompt.
    around: tuple[Sequence[int], Sequence[int]] = ((), ())
