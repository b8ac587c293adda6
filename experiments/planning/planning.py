"""All that a fine-tuning run calls, compiled from shapes alone for devices that are not there."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.finetuning.settings import (
    chosen_methods,
    computing_of,
    lora_of,
    optimization_of,
    sampling_of,
    sizes_of,
)
from experiments.planning.costs import Cost, bytes_on_device, cost_of
from rlrazor.api.model import base_shapes
from rlrazor.methods.method import Method
from rlrazor.models.cache import init_cache
from rlrazor.models.pretrained_config import read_config
from rlrazor.models.released import SHAPES, released_shape
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.policies.language import AnswerFormat, LanguagePolicy, make_language_policy
from rlrazor.runtime.hardware import Accelerator
from rlrazor.runtime.mesh import holders_of, make_mesh
from rlrazor.sampling.decode import make_stops
from rlrazor.studies.calls import Asked, Call, Planned, measuring_calls, planned, training_calls
from rlrazor.studies.count import count_flops
from rlrazor.studies.programs import Setup

USABLE = 0.9  # of a device's memory, for what is only estimated


def shape_of(model: str) -> TransformerConfig:
    """Of a folder with a config.json, or of a released model by its name alone."""
    if (Path(model) / "config.json").is_file():
        return read_config(Path(model))
    shape = released_shape(model)
    if shape is None:
        raise ValueError(
            f"config.model={model!r} is no folder with a config.json, and its shape is not known; "
            f"known are {', '.join(SHAPES)}, and their -Instruct versions"
        )
    return shape


def asked_of(config: Any) -> Asked:
    return Asked(config.prompt_buckets, config.row_buckets, config.test_at_once)


def setup_of(config: Any, method: Method, policy: LanguagePolicy) -> Setup:
    return Setup(policy, method, sizes_of(method, config), optimization_of(config))


def plan(
    config: Any, shape: TransformerConfig, devices: list[Any], accelerator: Accelerator
) -> dict[str, dict[str, Cost]]:
    """The cost of every program of every arm, of its largest bucket, laid out as the config says.

    What is measured with is compiled once: it is the same whatever was trained.
    """
    policy = policy_of(config, shape, make_mesh(**config.mesh, devices=devices))
    countable, asked = countable_twin(policy), asked_of(config).largest
    measuring: dict[str, Cost] = {}
    found: dict[str, dict[str, Cost]] = {}
    for method in chosen_methods(config):
        arm, twin = (
            planned(setup_of(config, method, each), base_shapes(each))
            for each in (policy, countable)
        )
        held = {name: bytes_on_device(tree) for name, tree in arm.held.items()}

        def cost(call: Call, plain: Call, arm: Planned = arm, held: Any = held) -> Cost:
            cached = cache_bytes(policy, call)
            return cost_of(
                call.program.lower(*call.arguments),
                held=held,
                read=sum(held[name] for name in call.reads),
                made={"cache": cached} if call.samples else {},
                flops=count_flops(plain.program, *plain.arguments) / policy.mesh.size,
                traffic=least_traffic(arm, call, held, cached),
                accelerator=accelerator,
            )

        both = training_calls(arm, asked), training_calls(twin, asked)
        costs = {call.name: cost(call, plain) for call, plain in zip(*both, strict=True)}
        both = measuring_calls(arm, asked), measuring_calls(twin, asked)
        for call, plain in zip(*both, strict=True):
            if call.name not in measuring:
                measuring[call.name] = cost(call, plain)
            costs[call.name] = measuring[call.name].beside(held)
        found[method.name] = costs
    return found


def policy_of(config: Any, shape: TransformerConfig, mesh: Any) -> LanguagePolicy:
    """As a run makes it, but for how answers end and are spelt, which changes no size."""
    size = shape.vocabulary
    answers = AnswerFormat(
        stops=make_stops([[0]]),
        spelling=(jnp.zeros((size, 1), jnp.uint8), jnp.ones(size, jnp.int32)),
        tokens=config.answer_tokens,
        bytes=config.answer_tokens,
    )
    return make_language_policy(
        dataclasses.replace(shape, **computing_of(config)),
        mesh,
        answers=answers,
        sampling=sampling_of(config),
        vocabulary_chunk=config.vocabulary_chunk,
        lora=lora_of(config),
    )


def countable_twin(policy: LanguagePolicy) -> LanguagePolicy:
    """The policy without kernels, whose products cannot be counted.

    Those of plain attention are as many, and those of tokens that causality hides. It reads whole
    rows, as kernels do: a replicated policy of plain products would share prompts.
    """
    model = policy.model
    if model.config.attention == "einsum":
        return policy
    plain = dataclasses.replace(model.config, attention="einsum")
    return dataclasses.replace(policy, model=model.clone(config=plain), replicated=False)


def cache_bytes(policy: LanguagePolicy, call: Call) -> float:
    """Of a device, of the keys and values of every token that a call may decode."""
    if not call.samples:
        return 0.0
    config = policy.model.config
    cache = jax.eval_shape(lambda: init_cache(config, call.rows, call.tokens, config.compute_dtype))
    size = jnp.dtype(config.compute_dtype).itemsize
    return (cache.keys.size + cache.values.size) * size / policy.mesh.size


def least_traffic(arm: Planned, call: Call, held: dict[str, float], cached: float) -> float:
    """Bytes between a device and its memory, at least."""
    setup, mesh = arm.setup, arm.setup.policy.mesh
    config: TransformerConfig = setup.policy.model.config  # type: ignore[attr-defined]
    weights, trained = (_count(tree) for tree in (arm.given.base, arm.trained))
    gathered = weights * jnp.dtype(config.compute_dtype).itemsize / mesh.shape["tensor"]
    if call.samples:
        # Every token reads all weights, and every key that there is room for.
        tokens = setup.policy.answer_tokens
        return (tokens + 1) * gathered + tokens * cached
    parts = max(1.0, call.rows / holders_of(mesh) / setup.sizes.rows_at_once)
    if call.name == "measure":
        return 2 * parts * gathered
    # Every pass over the rows reads the weights; the update reads and writes what it moves.
    method, rows = setup.method, 2 if setup.method.paired else 1
    passes = method.passes
    once = (2 + (config.remat == "full")) * gathered + 2 * trained * 4 / mesh.size
    beside = (passes.base + passes.teacher + passes.average + passes.policy) * gathered
    moved = sum(held[name] for name in ("parameters", "adapters", "optimizer") if name in held)
    updates = setup.sizes.minibatches * method.epochs
    return rows * parts * (method.epochs * once + beside) + 2 * updates * moved


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def suggestions(
    config: Any, shape: TransformerConfig, devices: int, accelerator: Accelerator
) -> Iterator[Any]:
    """Layouts that should fit, by an estimate: the least exchange first, then the most rows."""
    rows = [sizes_of(method, config).rows for method in chosen_methods(config)]
    for tensor in (n for n in range(1, devices + 1) if devices % n == 0):
        fsdp = devices // tensor
        cut = (shape.heads, shape.kv_heads, shape.vocabulary, shape.mlp_width)
        if any(size % tensor for size in cut) or shape.width % fsdp or any(n % fsdp for n in rows):
            continue
        for rows_at_once in (16, 8, 4, 2, 1):
            other = copy.deepcopy(config)
            other.mesh.update(data=1, fsdp=fsdp, tensor=tensor)
            other.rows_at_once = rows_at_once
            divides = all(n // fsdp % rows_at_once == 0 for n in rows)
            if divides and _all_fit(other, shape, accelerator):
                yield other


def _all_fit(config: Any, shape: TransformerConfig, accelerator: Accelerator) -> bool:
    return all(_fits(config, method, shape, accelerator) for method in chosen_methods(config))


def _fits(config: Any, method: Method, shape: TransformerConfig, accelerator: Accelerator) -> bool:
    """Whether compiling is worth a try: roughly, of a model that is trained whole."""
    s, fsdp, tensor = shape, config.mesh.fsdp, config.mesh.tensor
    devices, limit = fsdp * tensor, USABLE * accelerator.memory
    layer = s.width * s.head_dim * (2 * s.heads + 2 * s.kv_heads) + 3 * s.width * s.mlp_width
    weights = s.layers * layer + s.vocabulary * s.width * (1 if s.tied_head else 2)
    of_param, of_mu, of_nu, of_compute = (
        jnp.dtype(config[f"{name}_dtype"]).itemsize for name in ("param", "mu", "nu", "compute")
    )
    tokens = max(config.prompt_buckets) + config.answer_tokens
    read = max(config.row_buckets) if method.imitates else tokens
    trained = 0 if config.lora.rank else weights
    models = 1 + sum(method.reads(name) for name in ("teacher", "average"))
    held = weights * of_param / devices  # the base
    held += trained * (models * of_param + 4 * config.masters + of_mu + of_nu) / devices
    at_once = config.rows_at_once * read
    kept = at_once * s.width * s.layers * of_compute
    of_layer = at_once * (6 * s.width + 3 * (s.mlp_width + s.heads * s.head_dim)) * 4
    logits = 3 * 4 * config.rows_at_once * config.vocabulary_chunk * s.vocabulary / tensor
    head = 8 * s.vocabulary * s.width / tensor
    learning = held + trained * 4 / devices + kept + of_layer / tensor + logits + head
    sampled = 0 if method.imitates else sizes_of(method, config).rows
    rows = max(config.test_at_once, sampled) / fsdp
    cache = rows * tokens * 2 * s.layers * s.kv_heads * s.head_dim * of_compute / tensor
    gathered = weights * of_compute / tensor
    draws = 3 * 4 * rows * s.vocabulary
    return max(learning, held + 1.5 * cache + gathered + draws) <= limit


def too_narrow(costs: Sequence[dict[str, Cost]]) -> bool:
    """Whether sampling does not fit, which no number of rows at once changes."""
    return any(not one["sample"].needs.fits for one in costs if "sample" in one)
