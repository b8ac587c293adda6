"""Axis legend and the few types that cross folders.

Capital dimension names mean the same thing in every file:

| name | axis | name | axis |
|---|---|---|---|
| R | runs of a sweep | T | tokens of an answer |
| B | prompts of a batch | V | vocabulary (or classes) |
| G | samples per prompt | D | width of a representation |
| N | examples of a data set | L | layers |

Write for one run; `vmap` adds R. Index axes from the right.
"""

from collections.abc import Callable
from typing import Any

import jax

Params = Any  # pytree of arrays
Metrics = dict[str, jax.Array]
LossFn = Callable[[Params, Any, jax.Array], tuple[jax.Array, Metrics]]  # (params, batch, key)
