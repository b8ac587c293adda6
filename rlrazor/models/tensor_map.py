"""Where each of our parameters lies in a file of stored tensors, and how it comes and goes.

A linear map is stored as [out, in], one tensor a layer, and kept here as [L, in, out]; heads, and
the rotated halves within them, lie in the same order.
"""

import dataclasses
import functools
import gc
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.runtime.tensor_files import STORED_NAMES, Planned, TensorFolder, to_host

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
        return self.path.endswith(("/kernel", "/a", "/b"))  # matrices, and what adapts them

    def names(self) -> list[str]:
        return [self.name.format(n) for n in range(self.shape[0])] if self.stacked else [self.name]

    def stored_shape(self) -> tuple[int, ...]:
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape


def path_of(path: Any) -> str:
    """As in "layers/mlp/up/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def tensors(shapes: Any) -> Any:
    """The tree of parameters (or their shapes), and at every leaf where it lies in a checkpoint."""

    def tensor(path, leaf):
        ours = path_of(path[1:])  # without "params"
        return Tensor(ours, NAMES[ours], leaf.shape)

    return jax.tree.map_with_path(tensor, shapes)


# What wraps a module while it trains puts its name among those of the tensors.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
FREQUENCIES = re.compile(r"(.*\.)?rotary_emb\.inv_freq")  # follow from the config


def unwrap(files: TensorFolder) -> None:
    """Takes out of all names what compiling, sharding or checkpointing wrappers put into them."""
    files.rename(lambda name: WRAPPERS.sub("", name))


def settle(files: TensorFolder, *, tied_head: bool) -> None:
    """Gives the tensors of a model the names that they have without what wrapped it.

    A prefix before all names (`module.`, `base_model.model.`) goes; the `model.` that a model
    without its head lacks comes. Stored frequencies of the rotation are left out, and a stored head
    that is the embedding it is tied to, byte for byte.
    """
    unwrap(files)
    files.rename(lambda name: None if FREQUENCIES.fullmatch(name) else name)
    embedding, head = NAMES["embed/embedding"], NAMES["head/kernel"]
    bare = embedding.removeprefix("model.")
    found = [name for name in files.stored if f".{name}".endswith(f".{bare}")]
    if len(found) == 1 and found[0] != embedding:
        before = found[0].removesuffix(bare)
        whole = f".{before}".endswith(".model.")
        outer, inner = (before.removesuffix("model."), "") if whole else (before, "model.")

        def known_as(name: str) -> str:
            name = name.removeprefix(outer)
            return name if name == head else inner + name

        if all(name.startswith(outer) or name == head for name in files.stored):
            files.rename(known_as)
    if tied_head and head in files.stored:
        if embedding not in files.stored:
            files.rename(lambda name: embedding if name == head else name)
        elif _alike(files, embedding, head):
            files.rename(lambda name: None if name == head else name)


def _alike(files: TensorFolder, one: str, other: str, rows: int = 4096) -> bool:
    """Whether two tensors are the same; reads both, so many rows at a time."""
    a, b = files.stored[one], files.stored[other]
    matrices = len(a.shape) == 2 and a.dtype in STORED_NAMES.values()
    if not matrices or (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    n = a.shape[0]
    parts = (slice(first, min(first + rows, n)) for first in range(0, n, rows))
    return all(np.array_equal(files.read(one, (p,)), files.read(other, (p,))) for p in parts)


def check(files: TensorFolder, wanted: list[Tensor], *, asked_by: str) -> None:
    """Every tensor is there, in its shape and a type that we read, and no other.

    ValueError names the first that is not; `asked_by` is the file beside them that says what to
    expect.
    """
    shapes = {name: tensor.stored_shape() for tensor in wanted for name in tensor.names()}
    unknown = sorted(files.stored.keys() - shapes.keys())
    for name in unknown:
        if ".base_layer." in name or (".lora_" in name and asked_by == "config.json"):
            raise ValueError(
                f"{files.stored[name].file} holds {name!r}: adapters that were never merged into "
                "the model; merge them first (PEFT: merge_and_unload) and save that"
            )
    for name in sorted(shapes.keys() - files.stored.keys()):
        other = f" (it has {unknown[0]!r})" if unknown else ""
        raise ValueError(
            f"{files.folder} lacks the tensor {name!r}, which its {asked_by} asks for{other}; "
            f"fetch it again, or correct {asked_by}"
        )
    for name in unknown:
        tied = name == NAMES["head/kernel"]
        advice = "set tie_word_embeddings to false to use it" if tied else f"correct {asked_by}"
        raise ValueError(
            f"{files.stored[name].file} holds the tensor {name!r}, for which its {asked_by} has no "
            f"place; {advice}"
        )
    for name, shape in shapes.items():
        stored = files.stored[name]
        if stored.shape != shape:
            raise ValueError(
                f"{stored.file} has {name!r} as {list(stored.shape)}, its {asked_by} as "
                f"{list(shape)}"
            )
        if stored.dtype not in STORED_NAMES.values():
            raise ValueError(
                f"{stored.file} has {name!r} as {stored.dtype}; allowed are "
                f"{sorted(STORED_NAMES.values())}, so a quantised model must be expanded first"
            )


def read_tree(files: TensorFolder, tree: Any, shapes: Any, shardings: Any) -> Any:
    """The arrays of a tree of `Tensor`, in the types of `shapes`, as the shardings say.

    Each process reads what its own devices will hold, a slice once even where several hold it, and
    one array after the other. Without shardings, everything goes to one device.
    """
    read = functools.partial(_read, files)
    if shardings is None:
        return jax.tree.map(lambda t, leaf: _whole(read, t, leaf.dtype), tree, shapes)
    return jax.tree.map(
        lambda t, leaf, sharding: _sharded(read, t, leaf.dtype, sharding),
        tree,
        shapes,
        jax.tree.broadcast(shardings, shapes),
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


def plan(leaves: list[tuple[Tensor, Any]], dtype: Any) -> list[Planned]:
    """What is to be written of the arrays, in this type or (None) their own."""
    planned = []
    for tensor, leaf in leaves:
        found = np.dtype(dtype or leaf.dtype)
        if found.name not in STORED_NAMES:
            raise ValueError(f"{tensor.path} is {found}; allowed are {sorted(STORED_NAMES)}")
        planned += [Planned(name, tensor.stored_shape(), found) for name in tensor.names()]
    return planned


def gather(leaves: list[tuple[Tensor, Any]], dtype: Any) -> Iterator[np.ndarray]:
    """Tensor by tensor, as planned; every process that has a part of them must ask for all."""
    for tensor, leaf in leaves:
        for n in range(len(tensor.names())):
            array = to_host(leaf[n] if tensor.stacked else leaf).astype(dtype or leaf.dtype)
            yield array.T if tensor.transposed else array
