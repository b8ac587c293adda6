"""Adapters alone in a folder, in the layout that PEFT reads and writes."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.models.lora import MATRICES, adapted
from rlrazor.models.pretrained import parameter_shapes
from rlrazor.models.tensor_map import (
    NAMES,
    Tensor,
    check,
    gather,
    path_of,
    plan,
    read_tree,
    unwrap,
)
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.hub import find_model
from rlrazor.runtime.tensor_files import TensorFolder, read_json, write_folder
from rlrazor.types import Params

CONFIG, STEM = "adapter_config.json", "adapter_model"
# What PEFT's adapters can be and ours are not; left out, it is as here.
ONLY: dict[str, Any] = {
    "peft_type": "LORA",
    "use_dora": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
}


def save_lora(
    folder: str | Path,
    config: TransformerConfig,
    lora: Params,
    scale: float,  # alpha / rank
    *,
    base: str | Path | None = None,  # where the adapted model came from
    overwrite: bool = False,
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, the whole folder or none.

    A save that was cut off can be done again; a whole one is replaced only with `overwrite`.
    With several processes all must call this; the first one writes.
    """
    leaves = {path_of(path): leaf for path, leaf in jax.tree.leaves_with_path(lora)}
    if not leaves:
        raise ValueError("there are no adapters to save; give init_lora a target")
    rank = next((x.shape[-1] for path, x in leaves.items() if path.endswith("/a")), 0)
    known = _adapters(parameter_shapes(config), rank)
    for path, leaf in leaves.items():
        if path not in known or known[path].shape != leaf.shape:
            wanted = list(known[path].shape) if path in known else "none"
            raise ValueError(
                f"the adapters have {path!r} as {list(leaf.shape)}, the config allows {wanted}; "
                "give the config they were made with"
            )
    _refuse_tied(config, leaves)
    pairs = [(known[path], leaf) for path, leaf in leaves.items()]
    planned, arrays = plan(pairs, None), gather(pairs, None)
    fields = {k: v for k, v in ONLY.items() if v is not None} | {
        "base_model_name_or_path": None if base is None else str(base),
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "target_modules": sorted(
            {_module(path.rpartition("/")[0]).split(".")[-1] for path in leaves}
        ),
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
    }
    write_folder(
        Path(folder),
        planned,
        arrays,
        {CONFIG: json.dumps(fields, indent=2) + "\n"},
        max_shard_bytes=sum(tensor.nbytes for tensor in planned),
        stem=STEM,
        overwrite=overwrite,
    )


def check_lora(config: TransformerConfig, targets: Sequence[str]) -> None:
    """ValueError if adapters of these targets (see `init_lora`) could be trained and not saved."""
    _refuse_tied(config, [f"{path}/a" for path in adapted(parameter_shapes(config), targets)])


def load_lora(
    source: str | Path,  # a folder, or a hub id
    config: TransformerConfig,  # of the adapted model
    *,
    shardings: Any = None,  # a tree, a prefix of one, or a function of the adapters' shapes
) -> tuple[Params, float]:  # f32, and alpha / rank
    """Reads adapters as `load_pretrained` reads a model: by slices, every mistake named."""
    folder = find_model(source)
    fields = read_json(folder / CONFIG)
    rank, scale = _rank_and_scale(fields, folder / CONFIG)
    files = TensorFolder(folder, STEM)
    unwrap(files)
    adapters = _adapters(parameter_shapes(config), rank)
    stored = {path for path, t in adapters.items() if files.stored.keys() & set(t.names())}
    modules = {path.rpartition("/")[0] for path in stored}
    _check_targets(fields, modules, folder)
    _refuse_tied(config, stored)
    tree: Params = {}
    for path, tensor in adapters.items():
        *steps, last = path.split("/")
        if "/".join(steps) in modules:
            node = tree
            for step in steps:
                node = node.setdefault(step, {})
            node[last] = tensor
    check(files, jax.tree.leaves(tree), asked_by=CONFIG)
    shapes = jax.tree.map(lambda t: jax.ShapeDtypeStruct(t.shape, jnp.float32), tree)
    if callable(shardings):
        shardings = shardings(shapes)
    return read_tree(files, tree, shapes, shardings), scale


def _module(path: str) -> str:
    """Their name of the module with the matrix at `layers/mlp/up`, a place for its layer in it."""
    last = next(last for last in MATRICES if f"{path}/{last}" in NAMES)
    return NAMES[f"{path}/{last}"].removesuffix(".weight")


def _adapters(shapes: Any, rank: int) -> dict[str, Tensor]:
    """Of every matrix that could be adapted: our path, their name, our shape."""
    adapters = {}
    for path, leaf in jax.tree.leaves_with_path(shapes):
        module, _, last = path_of(path[1:]).rpartition("/")
        if last not in MATRICES:
            continue
        *stack, fan_in, fan_out = leaf.shape
        before, after = ("lora_", ".weight") if last == "kernel" else ("lora_embedding_", "")
        for ours, shape in (("a", (fan_in, rank)), ("b", (rank, fan_out))):
            theirs = f"base_model.model.{_module(module)}.{before}{ours.upper()}{after}"
            adapters[f"{module}/{ours}"] = Tensor(f"{module}/{ours}", theirs, (*stack, *shape))
    return adapters


def _rank_and_scale(fields: dict[str, Any], where: Path) -> tuple[int, float]:
    for name, allowed in ONLY.items():
        if fields.get(name, allowed) != allowed:
            raise ValueError(
                f"{where}: {name} is {fields[name]!r}; only {allowed!r} is supported, so this "
                "adapter would be applied wrongly"
            )
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{where}: r must be a positive whole number, got {rank!r}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise ValueError(f"{where}: lora_alpha must be a number, got {alpha!r}")
    # With rank-stabilised LoRA (arXiv 2312.03732) the change grows with the rank's root.
    return rank, alpha / (math.sqrt(rank) if fields.get("use_rslora") else rank)


def _check_targets(fields: dict[str, Any], modules: set[str], folder: Path) -> None:
    """Every module that the config names has tensors; a regular expression is not read."""
    targets = fields.get("target_modules")
    names = [_module(module) for module in modules]
    for target in targets if isinstance(targets, list) else ():
        of_all_layers = re.sub(r"(^|\.)\d+\.", r"\1{}.", target)
        if not any(f".{name}".endswith(f".{of_all_layers}") for name in names):
            raise ValueError(
                f"{folder} has no tensors for {target!r}, which its {CONFIG} has among its "
                "target_modules; fetch it again, or it is another model's"
            )


def _refuse_tied(config: TransformerConfig, paths: Iterable[str]) -> None:
    if config.tied_head and any(path.startswith("embed/") for path in paths):
        raise ValueError(
            "PEFT adapts an embedding apart from the head that is tied to it, and we adapt both; "
            "leave 'embed' out of the targets, or merge and save the whole model"
        )
