"""What losses and measurements are made of: `rr.ops.kl.kl`."""

import importlib
import importlib.util
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    module = f"{__name__}.{name}"
    if name.startswith("_") or importlib.util.find_spec(module) is None:
        raise AttributeError(f"{__name__} has no module {name!r}")
    return importlib.import_module(module)
