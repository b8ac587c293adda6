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
from typing import Any

import jax

Params = Any  # pytree of arrays
Metrics = dict[str, jax.Array]
LossFn = Callable[[Params, Any, jax.Array], tuple[jax.Array, Metrics]]  # (params, batch, key)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """How a model's tokenizer spells text, for tasks that make their tables with it.

    Each raises ValueError for a text that it cannot spell exactly.
    """

    encode_batch: Callable[[Sequence[str]], Sequence[Sequence[int]]]  # texts that stand alone
    encode_inside: Callable[[str], Sequence[int]]  # a text that follows another
    decode: Callable[[Sequence[int]], str]
