"""A fine-tuning step compiled from shapes alone for devices that are not there."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.finetuning.calls import buckets_of, calls
from experiments.finetuning.programs import Programs, build
from experiments.finetuning.settings import knobs_for, optimizer_for, rows_of, shape_for
from experiments.planning.costs import Cost, bytes_on_device, cost_of
from experiments.planning.flops import count_flops
from rlrazor.models.cache import init_cache
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.hardware import Accelerator
from rlrazor.runtime.mesh import make_mesh
from rlrazor.sampling.decode import make_stops

USABLE = 0.9  # of a device's memory, for what is only estimated


def plan(
    config: Any, shape: TransformerConfig, devices: list[Any], accelerator: Accelerator
) -> dict[str, Cost]:
    """The cost of every program of a step, laid out as the config says."""
    mesh = make_mesh(**config.mesh, devices=devices)
    shape = shape_for(config, shape)
    stops, knobs = make_stops([[0]]), knobs_for(config, mesh)

    def programs(shape: TransformerConfig) -> Programs:
        return build(shape, optimizer_for(config), stops, knobs, mesh)

    # Products of a kernel cannot be counted; those of plain attention are as many, and those of
    # tokens that causality hides.
    real, plain = programs(shape), programs(dataclasses.replace(shape, attention="einsum"))
    trained, whole = (_count(tree) for tree in (real.state.params, real.params))
    lora, tests = config.lora.rank > 0, config.data.test_path or any(config.prior.values())
    parameters = {"parameters": bytes_on_device(real.params)}
    optimizer = {"optimizer": bytes_on_device(real.state.opt_state)}
    held = parameters | optimizer
    if lora:
        held |= {"adapters": bytes_on_device(real.state.params)}
    base = {"base": parameters["parameters"]} if lora or tests else {}
    size = jnp.dtype(shape.compute_dtype).itemsize
    gathered = whole * size / mesh.shape["tensor"]
    # Every pass over the rows reads the weights; the update reads and writes what it moves.
    passes = 2 + (shape.remat == "full")
    once = passes * gathered + 2 * trained * 4 / mesh.size
    learning = knobs.row_parts * once + 2 * sum(held.values())
    found = {}
    for name, arguments in calls(config, real, mesh, max(buckets_of(config))):
        mine, made, traffic = held, {}, learning
        beside = {} if lora else base
        if name == "sample":
            slots = max(config.prompt_buckets) + config.answer_tokens
            cache = jax.eval_shape(
                lambda slots=slots: init_cache(shape, rows_of(config), slots, shape.compute_dtype)
            )
            cached = (cache.keys.size + cache.values.size) * size / mesh.size
            mine, made, beside = parameters, {"cache": cached}, optimizer | base
            # Every token reads all weights, and every key that there is room for.
            traffic = (config.answer_tokens + 1) * gathered + config.answer_tokens * cached
        found[name] = cost_of(
            getattr(real, name).lower(*arguments),
            held=mine,
            beside=beside,
            made=made,
            flops=count_flops(getattr(plain, name), *arguments) / mesh.size,
            traffic=traffic,
            accelerator=accelerator,
        )
    return found


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def suggestions(
    config: Any, shape: TransformerConfig, devices: int, accelerator: Accelerator
) -> Iterator[Any]:
    """Layouts that should fit, by an estimate: the least exchange first, then the most rows."""
    for tensor in (n for n in range(1, devices + 1) if devices % n == 0):
        fsdp = devices // tensor
        cut = (shape.heads, shape.kv_heads, shape.vocabulary, shape.mlp_width)
        if any(size % tensor for size in cut) or shape.width % fsdp or rows_of(config) % fsdp:
            continue
        share = rows_of(config) // fsdp
        for rows_at_once in (16, 8, 4, 2, 1):
            other = copy.deepcopy(config)
            other.mesh.update(data=1, fsdp=fsdp, tensor=tensor)
            other.rows_at_once = rows_at_once
            if share % rows_at_once == 0 and _fits(other, shape, accelerator):
                yield other


def _fits(config: Any, shape: TransformerConfig, accelerator: Accelerator) -> bool:
    """Whether compiling is worth a try: roughly."""
    s, fsdp, tensor = shape, config.mesh.fsdp, config.mesh.tensor
    devices, limit = fsdp * tensor, USABLE * accelerator.memory
    layer = s.width * s.head_dim * (2 * s.heads + 2 * s.kv_heads) + 3 * s.width * s.mlp_width
    weights = s.layers * layer + s.vocabulary * s.width * (1 if s.tied_head else 2)
    of_param, of_mu, of_nu, of_compute = (
        jnp.dtype(config[f"{name}_dtype"]).itemsize for name in ("param", "mu", "nu", "compute")
    )
    tokens = max(config.row_buckets)
    if config.method == "grpo":
        tokens = max(config.prompt_buckets) + config.answer_tokens
    held = weights * (of_param + 4 * config.masters + of_mu + of_nu) / devices
    at_once = config.rows_at_once * tokens
    kept = at_once * s.width * s.layers * of_compute
    of_layer = at_once * (6 * s.width + 3 * (s.mlp_width + s.heads * s.head_dim)) * 4
    logits = 3 * 4 * config.rows_at_once * config.vocabulary_chunk * s.vocabulary / tensor
    head = 8 * s.vocabulary * s.width / tensor
    learning = held + weights * 4 / devices + kept + of_layer / tensor + logits + head
    if config.method == "sft" or learning > limit:
        return learning <= limit
    rows = rows_of(config) / fsdp
    cache = rows * tokens * 2 * s.layers * s.kv_heads * s.head_dim * of_compute / tensor
    gathered = weights * of_compute / tensor
    draws = 3 * 4 * rows * s.vocabulary
    return weights * of_param / devices + 1.5 * cache + gathered + draws <= limit
