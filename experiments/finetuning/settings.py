"""What a fine-tuning config says, checked, as the arguments of the parts it is about."""

import dataclasses
from pathlib import Path
from typing import Any

import optax
from jax.sharding import Mesh

from experiments.finetuning.programs import Knobs
from rlrazor.models.pretrained_config import read_config
from rlrazor.models.released import SHAPES, released_shape
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.mesh import holders_of
from rlrazor.training.optimizer import adamw, warmup_schedule, with_masters
from rlrazor.training.parts import fewest

POSITIVE = (
    "steps", "rows", "prompts", "samples", "answer_tokens", "rows_at_once", "vocabulary_chunk",
    "temperature", "learning_rate", "log_every", "test_every", "test_prompts",
)  # fmt: skip


def check(config: Any) -> None:
    """Refuses what would otherwise fail after minutes of compiling, unclearly, or not at all."""
    for name in POSITIVE:
        if not config[name] > 0:
            raise ValueError(f"config.{name}={config[name]} must be above 0")
    for name in ("row_buckets", "prompt_buckets"):
        if not config[name] or min(config[name]) < 2:
            raise ValueError(f"config.{name}={config[name]} must be one or more lengths above 1")
    if config.method not in ("sft", "grpo"):
        raise ValueError(f"config.method={config.method!r} must be sft or grpo")


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


def shape_for(config: Any, shape: TransformerConfig) -> TransformerConfig:
    """A model's shape, computed as the config says."""
    return dataclasses.replace(
        shape,
        param_dtype=config.param_dtype,
        compute_dtype=config.compute_dtype,
        remat=config.remat,
        attention=config.attention,
    )


def rows_of(config: Any) -> int:
    """Rows of a step."""
    return config.rows if config.method == "sft" else config.prompts * config.samples


def knobs_for(config: Any, mesh: Mesh) -> Knobs:
    """ValueError if the rows of a step do not divide among the devices."""
    holders = holders_of(mesh)
    rows = rows_of(config)
    if rows % holders:
        name = "rows" if config.method == "sft" else "prompts x samples"
        raise ValueError(
            f"config.{name}={rows} must be a multiple of the {holders} devices that share them "
            f"(data x fsdp); try {max(rows // holders, 1) * holders}, or a larger tensor"
        )
    return Knobs(
        samples=config.samples,
        answer_tokens=config.answer_tokens,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        row_parts=fewest(rows // holders, config.rows_at_once),
        vocabulary_chunk=config.vocabulary_chunk,
        lora_rank=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_targets=tuple(config.lora.targets),
    )


def optimizer_for(config: Any) -> optax.GradientTransformation:
    schedule = warmup_schedule(
        config.learning_rate,
        warmup_steps=config.warmup_steps,
        total_steps=config.steps,
        cosine=config.cosine,
    )
    tx = adamw(
        schedule,
        weight_decay=config.weight_decay,
        clip_by_global_norm=config.clip_by_global_norm,
        mu_dtype=config.mu_dtype,
        nu_dtype=config.nu_dtype,
    )
    return with_masters(tx) if config.masters else tx
