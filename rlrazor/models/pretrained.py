"""Released weights in and out: a Hugging Face folder to sharded parameters, and back.

Qwen2.5, Qwen3 and Llama 3 (text). A linear map is stored as [out, in] a layer and kept here as
[L, in, out]; heads and their rotated halves lie in the same order.
"""

import dataclasses
import functools
import gc
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.models.pretrained_config import CONFIG, config_like, config_to_json, read_config
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import FloatName, TransformerConfig
from rlrazor.runtime.hub import find_model
from rlrazor.runtime.tensor_files import (
    STORED_NAMES,
    Planned,
    TensorFolder,
    read_json,
    to_host,
    write_tensors,
)
from rlrazor.types import Params

PREFIX = "model.layers.{}."
NAMES = {  # our path -> their name; that of a layer has a place for its number
    "embed/embedding": "model.embed_tokens.weight",
    "layers/attention_norm/scale": PREFIX + "input_layernorm.weight",
    "layers/attention/query/kernel": PREFIX + "self_attn.q_proj.weight",
    "layers/attention/query/bias": PREFIX + "self_attn.q_proj.bias",
    "layers/attention/key/kernel": PREFIX + "self_attn.k_proj.weight",
    "layers/attention/key/bias": PREFIX + "self_attn.k_proj.bias",
    "layers/attention/value/kernel": PREFIX + "self_attn.v_proj.weight",
    "layers/attention/value/bias": PREFIX + "self_attn.v_proj.bias",
    "layers/attention/query_norm/scale": PREFIX + "self_attn.q_norm.weight",
    "layers/attention/key_norm/scale": PREFIX + "self_attn.k_norm.weight",
    "layers/attention/output/kernel": PREFIX + "self_attn.o_proj.weight",
    "layers/mlp_norm/scale": PREFIX + "post_attention_layernorm.weight",
    "layers/mlp/gate/kernel": PREFIX + "mlp.gate_proj.weight",
    "layers/mlp/up/kernel": PREFIX + "mlp.up_proj.weight",
    "layers/mlp/down/kernel": PREFIX + "mlp.down_proj.weight",
    "final_norm/scale": "model.norm.weight",
    "head/kernel": "lm_head.weight",
}
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


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one of our parameters lies in a checkpoint: one tensor, or one a layer."""

    path: str  # ours
    name: str  # theirs
    shape: tuple[int, ...]  # ours

    @property
    def stacked(self) -> bool:
        return self.path.startswith("layers/")

    @property
    def transposed(self) -> bool:
        return self.path.endswith("/kernel")

    def names(self) -> list[str]:
        return [self.name.format(n) for n in range(self.shape[0])] if self.stacked else [self.name]

    def stored_shape(self) -> tuple[int, ...]:
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape


def tensors(shapes: Any) -> Any:
    """The tree of parameters (or their shapes), and at every leaf where it lies in a checkpoint."""

    def tensor(path, leaf):
        ours = jax.tree_util.keystr(path[1:], simple=True, separator="/")
        return Tensor(ours, NAMES[ours], leaf.shape)

    return jax.tree.map_with_path(tensor, shapes)


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
    names the field or the tensor that does not fit.
    """
    folder = find_model(source)
    config = read_config(folder, param_dtype=param_dtype, **computing)
    files, shapes = TensorFolder(folder), parameter_shapes(config)
    tree = tensors(shapes)
    _check(files, jax.tree.leaves(tree), folder)
    if callable(shardings):
        shardings = shardings(config, shapes)
    read = functools.partial(_read, files)
    if shardings is None:
        params = jax.tree.map(lambda t, leaf: _whole(read, t, leaf.dtype), tree, shapes)
    else:
        shardings = jax.tree.broadcast(shardings, shapes)
        params = jax.tree.map(
            lambda t, leaf, sharding: _sharded(read, t, leaf.dtype, sharding),
            tree,
            shapes,
            shardings,
        )
    return config, params, Reading(folder, files.files, files.bytes_read, files.bytes_stored)


def save_pretrained(
    folder: str | Path,
    config: TransformerConfig,
    params: Params,
    *,
    source: str | Path | None = None,
    dtype: FloatName | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that `transformers` loads; the whole of it or none.

    `source` is where the model came from: its tokenizer is copied, and what its config.json says
    beyond ours. `dtype` is that of the file, or else of the parameters. Tensors are gathered and
    written one by one. With several processes all must call this; the first one writes.
    """
    folder = Path(folder)
    came_from = None if source is None else find_model(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; give a new folder to save to")
    leaves = _matching(params, config)
    types = [np.dtype(dtype or leaf.dtype) for _, leaf in leaves]
    for (tensor, _), found in zip(leaves, types, strict=True):
        if found.name not in STORED_NAMES:
            raise ValueError(f"{tensor.path} is {found}; allowed are {sorted(STORED_NAMES)}")
    fields = config_to_json(config, dtype=types[0].name)
    if came_from is not None:
        fields = config_like(fields, read_json(came_from / CONFIG))
    arrays = _gathered(leaves, types)
    if jax.process_index():
        deque(arrays, maxlen=0)  # takes part in gathering
        return
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)  # of a save that was cut off
    partial.mkdir(parents=True)
    planned = [
        Planned(name, tensor.stored_shape(), found)
        for (tensor, _), found in zip(leaves, types, strict=True)
        for name in tensor.names()
    ]
    write_tensors(partial, planned, arrays, max_shard_bytes=max_shard_bytes)
    (partial / CONFIG).write_text(json.dumps(fields, indent=2) + "\n")
    if came_from is not None:
        for name in COPIED:
            if (came_from / name).exists():
                shutil.copyfile(came_from / name, partial / name)
    partial.replace(folder)


def _check(files: TensorFolder, wanted: list[Tensor], folder: Path) -> None:
    """Every tensor of the model is there, in its shape and a type that we read, and no other."""
    shapes = {name: tensor.stored_shape() for tensor in wanted for name in tensor.names()}
    for name in sorted(shapes.keys() - files.stored.keys()):
        raise ValueError(
            f"{folder} lacks the tensor {name!r}, which its {CONFIG} asks for; fetch it again, or "
            f"correct {CONFIG}"
        )
    for name in sorted(files.stored.keys() - shapes.keys()):
        tied = name == "lm_head.weight"
        advice = "with tie_word_embeddings false it would be used" if tied else f"correct {CONFIG}"
        raise ValueError(
            f"{files.stored[name].file} holds the tensor {name!r}, for which its {CONFIG} has no "
            f"place; {advice}"
        )
    for name, shape in shapes.items():
        stored = files.stored[name]
        if stored.shape != shape:
            raise ValueError(
                f"{stored.file} has {name!r} as {list(stored.shape)}, its {CONFIG} as {list(shape)}"
            )
        if stored.dtype not in STORED_NAMES.values():
            raise ValueError(
                f"{stored.file} has {name!r} as {stored.dtype}; allowed are "
                f"{sorted(STORED_NAMES.values())}, so a quantised model must be expanded first"
            )


Read = Callable[[Tensor, tuple[slice, ...], Any], np.ndarray]


def _read(files: TensorFolder, tensor: Tensor, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
    """A slice of one of our parameters, from as many tensors as it has layers."""

    def one(name, inner):
        part = files.read(name, inner[::-1] if tensor.transposed else inner)
        return part.T if tensor.transposed else part

    if not tensor.stacked:
        return np.ascontiguousarray(one(tensor.name, index), dtype)
    names, inner = tensor.names()[index[0]], index[1:]
    sizes = [len(range(n)[s]) for n, s in zip(tensor.shape[1:], inner, strict=True)]
    layers = np.empty((len(names), *sizes), dtype)
    for n, name in enumerate(names):
        layers[n] = one(name, inner)
    return layers


def _whole(read: Read, tensor: Tensor, dtype: Any) -> jax.Array:
    return jnp.asarray(read(tensor, tuple(slice(0, n) for n in tensor.shape), dtype))


def _sharded(read: Read, tensor: Tensor, dtype: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    slices: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def part(index):
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, tensor.shape, strict=True))
        if bounds not in slices:
            slices[bounds] = read(tensor, tuple(slice(*b) for b in bounds), dtype)
        return slices[bounds]

    array = jax.make_array_from_callback(tensor.shape, sharding, part, dtype=dtype)
    # Slices would pile up where the disk outruns the device; and what a transfer has held is let go
    # when Python next collects garbage.
    array.block_until_ready()
    slices.clear()
    gc.collect(0)
    return array


def _matching(params: Params, config: TransformerConfig) -> list[tuple[Tensor, Any]]:
    """Tensors with their arrays; ValueError names a parameter that the config does not have so."""
    wanted = {tensor.path: tensor for tensor in jax.tree.leaves(tensors(parameter_shapes(config)))}
    found = {
        jax.tree_util.keystr(path[1:], simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }
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


def _gathered(leaves: list[tuple[Tensor, Any]], types: list[Any]) -> Iterator[np.ndarray]:
    for (tensor, leaf), dtype in zip(leaves, types, strict=True):
        for n in range(len(tensor.names())):
            array = to_host(leaf[n] if tensor.stacked else leaf).astype(dtype)
            yield array.T if tensor.transposed else array
