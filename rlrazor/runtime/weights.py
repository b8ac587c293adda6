"""Parameters in a safetensors file: what other programs can read, and no code to run."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from rlrazor.types import Params


def save_weights(path: Path, params: Params) -> None:
    """Writes a tree of dicts of arrays, names joined by dots; the whole file or none."""
    named, _ = _named(params)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(save({name: np.asarray(array) for name, array in named.items()}))
    os.replace(partial, path)


def load_weights(path: Path, like: Any) -> Params:
    """Reads what `save_weights` wrote into the structure of `like` (arrays or their shapes).

    ValueError names the first tensor that is missing, too much, or of another shape or type.
    """
    try:
        read = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error})") from error
    wanted, structure = _named(like)
    for name in sorted(wanted.keys() ^ read.keys()):
        what = "lacks the" if name in wanted else "holds the unknown"
        raise ValueError(f"{path} {what} tensor {name!r}; it belongs to another model")
    for name, array in wanted.items():
        if (read[name].shape, read[name].dtype) != (array.shape, array.dtype):
            raise ValueError(
                f"{path} has {name!r} as {read[name].dtype}{list(read[name].shape)}, the model as "
                f"{array.dtype}{list(array.shape)}; it belongs to another model"
            )
    return jax.tree.unflatten(structure, [jnp.asarray(read[name]) for name in wanted])


def _named(tree: Any) -> tuple[dict[str, Any], Any]:
    """The leaves by name, in their order, and the structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True)), structure
