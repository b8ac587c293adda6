"""Ways to learn, as values: `rlrazor.methods.grpo` is that of `rlrazor.methods.methods`.

Python puts a package into its parent as soon as anything in it is imported, so that `rr.methods`
is this package or that module, whichever came first. Both have every method.
"""

import importlib
import importlib.util
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}"):
        raise AttributeError(name)  # a module of this package that nobody has imported yet
    return getattr(importlib.import_module(f"{__name__}.methods"), name)
