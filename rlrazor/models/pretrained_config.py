"""Hugging Face's `config.json` and our `TransformerConfig`, each from the other.

Read strictly: what is missing, or says something that our model does not do, is an error that
names the field, since a model that computes something slightly else gives no other sign.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlrazor.models.rope import Llama3Scaling
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.tensor_files import read_json

CONFIG = "config.json"
# Architecture -> what tells it apart in our config.
FAMILIES = {
    "Qwen2ForCausalLM": {"qkv_bias": True, "qk_norm": False},
    "Qwen3ForCausalLM": {"qkv_bias": False, "qk_norm": True},
    "LlamaForCausalLM": {"qkv_bias": False, "qk_norm": False},
}
SIZES = {  # theirs -> ours
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "mlp_width",
}
# What they could do and we do not; left out, it is as here.
ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,  # biases of the output projection too
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
}
WRITTEN = {  # of these, what the family's own config has
    "Qwen2ForCausalLM": ("use_sliding_window",),
    "Qwen3ForCausalLM": ("use_sliding_window", "attention_bias"),
    "LlamaForCausalLM": ("attention_bias", "mlp_bias"),
}
# What we write only because a config should have it; the source's own goes before.
THEIRS = (
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "initializer_range",
    "use_cache",
)
SCALING_FIELDS = tuple(field.name for field in dataclasses.fields(Llama3Scaling))


def read_config(folder: Path, **computing: Any) -> TransformerConfig:
    """The config of a folder's model; `computing` are fields that say how it is computed."""
    return config_from_json(read_json(folder / CONFIG), where=folder / CONFIG, **computing)


def config_from_json(
    fields: Mapping[str, Any], *, where: str | Path = CONFIG, **computing: Any
) -> TransformerConfig:
    """Our config; ValueError names the field and the file it is in."""
    try:
        return _config(fields, computing)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _config(fields: Mapping[str, Any], computing: Mapping[str, Any]) -> TransformerConfig:
    family = _family(fields)
    for name, allowed in ONLY.items():
        if family == "Qwen2ForCausalLM" and name == "attention_bias":
            continue  # it has no such choice, and its code does not look at it
        if fields.get(name, allowed) != allowed:
            raise ValueError(
                f"{name} is {fields[name]!r}; only {allowed!r} is supported, so this model would "
                "be computed wrongly"
            )
    for kind in fields.get("layer_types") or ():
        if kind != "full_attention":
            raise ValueError(f"layer_types has {kind!r}; only 'full_attention' is supported")
    sizes = {ours: _whole(fields, theirs) for theirs, ours in SIZES.items()}
    base, scaling = _rope(fields)
    model = dict(
        **sizes,
        **FAMILIES[family],
        head_dim=_head_dim(family, fields, sizes),
        tied_head=_boolean(fields, "tie_word_embeddings"),
        norm_epsilon=_number(fields, "rms_norm_eps"),
        rope_base=base,
        rope_scaling=scaling,
    )
    for name in model.keys() & computing.keys():
        raise ValueError(f"{name} is the model's, so it cannot be set to {computing[name]!r}")
    return TransformerConfig(**model, **computing)


def config_to_json(config: TransformerConfig, *, dtype: str) -> dict[str, Any]:
    """What `transformers` (4 and 5) reads; tokens and context length are left at values that
    refuse nothing."""
    told = {name: getattr(config, name) for name in ("qkv_bias", "qk_norm")}
    family = next((name for name, switches in FAMILIES.items() if switches == told), None)
    if family is None:
        raise ValueError(
            f"no supported architecture has {told}; allowed are "
            + ", ".join(f"{switches} ({name})" for name, switches in FAMILIES.items())
        )
    scaling = config.rope_scaling
    length = 32_768
    if scaling is not None:
        length = round(scaling.factor * scaling.original_max_position_embeddings)
    return {
        "architectures": [family],
        "model_type": _model_type(family),
        **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()},
        "head_dim": config.head_dim,
        "hidden_act": ONLY["hidden_act"],
        **{name: ONLY[name] for name in WRITTEN[family]},
        "tie_word_embeddings": config.tied_head,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_base,
        "rope_scaling": scaling and {"rope_type": "llama3", **dataclasses.asdict(scaling)},
        "max_position_embeddings": length,
        "bos_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
    }


def config_like(ours: dict[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """`config_to_json`, with what the model's source says beyond it: tokens, context length, ..."""
    if _family(source) != _family(ours):
        raise ValueError(
            f"the source is a {_family(source)} and these parameters are a {_family(ours)}; give "
            "the folder that they were loaded from, or none"
        )
    # Fields that say in other words what ours say.
    kept = {k: v for k, v in source.items() if k not in ("rope_parameters", "dtype", "layer_types")}
    return ours | kept | {k: v for k, v in ours.items() if k not in THEIRS}


def _model_type(family: str) -> str:
    return family.removesuffix("ForCausalLM").lower()


def _family(fields: Mapping[str, Any]) -> str:
    named = fields.get("architectures")
    family = named[0] if isinstance(named, list) and len(named) == 1 else named
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"architectures is {named!r}; allowed is one of {sorted(FAMILIES)}")
    kind = fields.get("model_type", _model_type(family))
    if kind != _model_type(family):
        raise ValueError(f"model_type is {kind!r}, but a {family} is a {_model_type(family)!r}")
    return family


def _head_dim(family: str, fields: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    if fields.get("head_dim") is not None or family == "Qwen3ForCausalLM":
        return _whole(fields, "head_dim")
    if sizes["width"] % sizes["heads"]:
        raise ValueError(
            f"without head_dim, hidden_size={sizes['width']} must be a multiple of "
            f"num_attention_heads={sizes['heads']}"
        )
    return sizes["width"] // sizes["heads"]


def _rope(fields: Mapping[str, Any]) -> tuple[float, Llama3Scaling | None]:
    """Base and scaling, which transformers 5 writes as `rope_parameters` and 4 as two fields.

    Where both stand they must say the same.
    """
    given = [name for name in ("rope_parameters", "rope_scaling") if fields.get(name)]
    found = [_one_rope(fields, name) for name in given or ["rope_scaling"]]
    if found[0] != found[-1]:
        raise ValueError(
            "both rope_parameters and rope_scaling are given and say different things, "
            f"{_told(*found[0])} and {_told(*found[-1])}; keep the one that is true"
        )
    return found[0]


def _told(base: float, scaling: Llama3Scaling | None) -> str:
    return f"a rope_theta of {base:g} with {scaling or 'no scaling'}"


def _one_rope(fields: Mapping[str, Any], name: str) -> tuple[float, Llama3Scaling | None]:
    rope = fields.get(name) or {}
    if not isinstance(rope, dict):
        raise ValueError(f"{name} must be an object, got {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError(
            f"{name} has the rope_type {kind!r}; allowed are 'default' and 'llama3'. A model that "
            "was only offered it for longer contexts works without: delete the field"
        )
    turned = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
    if turned not in (None, 1.0):
        raise ValueError(f"partial_rotary_factor is {turned!r}; only 1.0 is supported")
    # Version 4 writes it beside the scaling, 5 into it: a file with both has it somewhere.
    within = fields.get("rope_parameters")
    places = [rope, fields, within if isinstance(within, dict) else {}]
    said = next((place for place in places if "rope_theta" in place), fields)
    base = _number(said, "rope_theta")
    if kind == "default":
        return base, None
    for part in SCALING_FIELDS:
        if part not in rope:
            raise ValueError(f"{name} has the rope_type 'llama3' but no {part}")
    scaling = {part: _number(rope, part) for part in SCALING_FIELDS}
    whole = _whole(rope, "original_max_position_embeddings")
    return base, Llama3Scaling(**{**scaling, "original_max_position_embeddings": whole})


def _whole(fields: Mapping[str, Any], name: str) -> int:
    value = _required(fields, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return value


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = _required(fields, name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def _boolean(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def _required(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"{name} is missing; it is needed to build the model")
    return fields[name]
