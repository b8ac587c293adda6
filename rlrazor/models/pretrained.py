"""Released weights in and out: a Hugging Face folder to sharded parameters, and back.

Qwen2.5, Qwen3 and Llama 3 (text).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.models.pretrained_config import CONFIG, config_like, config_to_json, read_config
from rlrazor.models.tensor_map import (
    Tensor,
    check,
    gather,
    path_of,
    plan,
    read_tree,
    settle,
    tensors,
)
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.hub import find_model
from rlrazor.runtime.tensor_files import TensorFolder, read_json, write_folder
from rlrazor.types import FloatName, Params

# Beside the weights, what a tokenizer and `generate` need.
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read, and how much of it by this process."""

    folder: Path
    files: tuple[Path, ...]
    bytes_read: int  # of tensors, by this process
    bytes_stored: int  # of all tensors of the model


def parameter_shapes(config: TransformerConfig) -> Any:
    """The tree of parameters as shapes and types; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)


def load_pretrained(
    source: str | Path,  # a folder, or `owner/name` or `owner/name@revision` on the hub
    *,
    shardings: Any = None,
    param_dtype: FloatName = "float32",
    **computing: Any,  # fields of TransformerConfig that say how to compute
) -> tuple[TransformerConfig, Params, Reading]:
    """Config, parameters `{"params": ...}` and what was read.

    `shardings` is a tree of shardings, a prefix of one, or a function of the config and the tree of
    shapes that gives one; None puts everything on one device. Each process reads what its own
    devices will hold, a slice once even where several hold it, and one parameter after the other:
    the host never has more than its part of the largest. ValueError, before any tensor is read,
    names the field or the tensor that does not fit. (Only where a head is stored that the config
    ties to the embedding are these two compared.)
    """
    folder = find_model(source)
    if not (folder / CONFIG).exists() and (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds an adapter and no model; load the model that it adapts "
            "(base_model_name_or_path in its adapter_config.json), and it by `load_lora`"
        )
    config = read_config(folder, param_dtype=param_dtype, **computing)
    files, shapes = TensorFolder(folder), parameter_shapes(config)
    settle(files, tied_head=config.tied_head)
    tree = tensors(shapes)
    check(files, jax.tree.leaves(tree), asked_by=CONFIG)
    if callable(shardings):
        shardings = shardings(config, shapes)
    params = read_tree(files, tree, shapes, shardings)
    return config, params, Reading(folder, files.files, files.bytes_read, files.bytes_stored)


def save_pretrained(
    folder: str | Path,
    config: TransformerConfig,
    params: Params,
    *,
    source: str | Path | None = None,
    dtype: FloatName | None = None,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
) -> None:
    """Writes a folder that `transformers` loads; the whole of it or none.

    A save that was cut off can be done again; a whole one is replaced only with `overwrite`.

    `source` is where the model came from: its tokenizer is copied, and what its config.json says
    beyond ours. `dtype` is that of the file, or else of the parameters. Tensors are gathered and
    written one by one. With several processes all must call this; the first one writes.
    """
    came_from = None if source is None else find_model(source)
    leaves = _matching(params, config)
    planned, arrays = plan(leaves, dtype), gather(leaves, dtype)
    fields = config_to_json(config, dtype=planned[0].dtype.name)
    beside: dict[str, str | Path] = {}
    if came_from is not None:
        fields = config_like(fields, read_json(came_from / CONFIG))
        beside |= {name: came_from / name for name in COPIED if (came_from / name).exists()}
    beside[CONFIG] = json.dumps(fields, indent=2) + "\n"
    write_folder(
        Path(folder),
        planned,
        arrays,
        beside,
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
    )


def _matching(params: Params, config: TransformerConfig) -> list[tuple[Tensor, Any]]:
    """Tensors with their arrays; ValueError names a parameter that the config does not have so."""
    wanted = {tensor.path: tensor for tensor in jax.tree.leaves(tensors(parameter_shapes(config)))}
    found = {path_of(path[1:]): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    for path in sorted(wanted.keys() ^ found.keys()):
        what = "lack" if path in wanted else "have the unknown"
        raise ValueError(f"the parameters {what} {path!r}; give the config they were made with")
    for path, tensor in wanted.items():
        if found[path].shape != tensor.shape:
            raise ValueError(
                f"{path!r} has the shape {list(found[path].shape)}, its config asks for "
                f"{list(tensor.shape)}; give the config they were made with"
            )
    return [(tensor, found[path]) for path, tensor in wanted.items()]
