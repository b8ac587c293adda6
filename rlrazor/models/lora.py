"""LoRA: a low-rank change of some matrices, trained while they stay as they are (arXiv 2106.09685).

W + scale * a b, with scale = alpha / rank. Adapters are a tree of their own: where the parameters
have `layers/mlp/up/kernel` [L, in, out], it has `layers/mlp/up/a` [L, in, rank] and `.../b`
[L, rank, out]. A new b is zero, so that a new adapter changes nothing.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.models.tensor_map import path_of
from rlrazor.types import LossFn, Params, Rule

MATRICES = ("kernel", "embedding")  # last step of the path to one


def init_lora(
    key: jax.Array,
    shapes: Any,  # parameters {"params": ...}, or their shapes
    *,
    targets: Sequence[str],
    rank: int,
) -> Params:  # f32
    """Adapters of every matrix whose path ends as one of `targets` says.

    A target is a regular expression for whole steps but the last one: "attention/(query|value)",
    "layers/.*" for all of every layer, ".*" for the embedding and the head as well. a is drawn
    uniformly with variance 1 / (3 in), as PEFT does. ValueError for a target that names no matrix.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    chosen = adapted(shapes, targets)
    lora: Params = {}
    keys = jax.random.split(key, max(len(chosen), 1))
    for one, path in zip(keys, sorted(chosen), strict=False):
        *stack, fan_in, fan_out = chosen[path].shape
        if rank > min(fan_in, fan_out):
            raise ValueError(
                f"rank={rank} is more than {path} of {fan_in} x {fan_out} can have; it can be at "
                f"most {min(fan_in, fan_out)}"
            )
        bound = 1 / math.sqrt(fan_in)
        node = lora
        for step in path.split("/"):
            node = node.setdefault(step, {})
        node["a"] = jax.random.uniform(one, (*stack, fan_in, rank), minval=-bound, maxval=bound)
        node["b"] = jnp.zeros((*stack, rank, fan_out))
    return lora


def adapted(shapes: Any, targets: Sequence[str]) -> dict[str, Any]:
    """The matrices that the targets of `init_lora` choose, by the path to each."""
    leaves = {path_of(path[1:]): leaf for path, leaf in jax.tree.leaves_with_path(shapes)}
    matrices = {p.rpartition("/")[0]: x for p, x in leaves.items() if p.endswith(MATRICES)}
    chosen: dict[str, Any] = {}
    for target in targets:
        pattern = re.compile(rf"(?:.*/)?(?:{target})")
        found = {path: leaf for path, leaf in matrices.items() if pattern.fullmatch(path)}
        if not found:
            raise ValueError(f"the target {target!r} is none of {', '.join(sorted(matrices))}")
        chosen |= found
    return chosen


def merge(params: Params, lora: Params, scale: float) -> Params:
    """The parameters with the change added, in their own type: a model like any other."""
    merged = _changed(params["params"], lora, lambda w, a, b: w + scale * _product(a, b))
    return {**params, "params": merged}


def unmerge(params: Params, lora: Params, scale: float) -> Params:
    """Takes away what `merge` added, up to the rounding of the parameters' type."""
    return merge(params, lora, -scale)


def apply_beside(params: Params, lora: Params, scale: float) -> Params:
    """What the model applies as W x + scale * b(a x), with W out of reach of the gradient.

    So training costs neither a merged copy nor a gradient of W. The embedding and the head are
    used in several places, and are merged.
    """
    params = jax.lax.stop_gradient(params)
    others = {name: adapters for name, adapters in lora.items() if name != "layers"}
    scaled = jax.tree.map_with_path(
        lambda path, x: scale * x if path[-1].key == "b" else x, {"layers": lora.get("layers", {})}
    )
    return {**merge(params, others, scale), "lora": scaled}


def train_beside(loss: LossFn, params: Params, scale: float) -> LossFn:
    """The loss as a function of the adapters.

    Make it inside what is compiled, with `params` among its arguments; closed over from outside,
    they would become constants of the program.
    """
    return lambda lora, batch, key: loss(apply_beside(params, lora, scale), batch, key)


def lora_rules(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Partition rules by which adapters lie as what they adapt: a by its rows, b by its columns."""
    adapters = []
    for rule in rules:
        path, _, last = rule.ending.rpartition("/")
        if last in MATRICES:
            *stack, rows, columns = rule.axes
            adapters += [
                Rule(f"{path}/a", (*stack, rows, None), heads=rule.heads),
                Rule(f"{path}/b", (*stack, None, columns), heads=rule.heads),
            ]
    return tuple(adapters)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:  # [..., in, r], [..., r, out]
    a, b = (x.astype(jnp.float32) for x in (a, b))
    return jnp.matmul(a, b, precision="highest")


def _changed(
    params: Params,
    lora: Params,
    change: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],  # of f32 W, a, b
) -> Params:
    """The tree with every adapted matrix replaced, each in its own type."""
    if "a" in lora:
        name = next(name for name in MATRICES if name in params)
        matrix = params[name]
        changed = change(matrix.astype(jnp.float32), lora["a"], lora["b"])
        return {**params, name: changed.astype(matrix.dtype)}
    return {**params, **{k: _changed(params[k], sub, change) for k, sub in lora.items()}}
