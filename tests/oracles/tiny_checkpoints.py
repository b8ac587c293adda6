"""Small checkpoints in Hugging Face's layout, written name by name as a reader finds it there."""

import dataclasses
import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from rlrazor.models.rope import Llama3Scaling
from rlrazor.models.transformer_config import TransformerConfig

# Every axis has a length of its own, and head_dim is not width / heads.
QWEN2 = TransformerConfig(
    vocabulary=40,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=24,
    mlp_width=56,
    qkv_bias=True,
    tied_head=True,
    rope_base=1_000_000.0,
)
QWEN3 = dataclasses.replace(QWEN2, qkv_bias=False, qk_norm=True, tied_head=False)
LLAMA = dataclasses.replace(
    QWEN3,
    qk_norm=False,
    norm_epsilon=1e-5,
    rope_base=500_000.0,
    rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 64),
)
FAMILIES = {"Qwen2": QWEN2, "Qwen3": QWEN3, "Llama": LLAMA}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def fields(family, *, version=4, dtype="float32"):
    """config.json as transformers writes it, in its version 4 or 5."""
    c = FAMILIES[family]
    scaling = None
    if c.rope_scaling is not None:
        scaling = {"rope_type": "llama3", **dataclasses.asdict(c.rope_scaling)}
    told = {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "vocab_size": c.vocabulary,
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.mlp_width,
        "hidden_act": "silu",
        "tie_word_embeddings": c.tied_head,
        "rms_norm_eps": c.norm_epsilon,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": [1, 2],
        "use_cache": False,
    }
    if family != "Llama":
        told |= {"use_sliding_window": False, "sliding_window": 99, "max_window_layers": 1}
    if version == 4:
        return told | {
            "rope_theta": c.rope_base,
            "rope_scaling": scaling,
            "torch_dtype": dtype,
            "transformers_version": "4.57.1",
        }
    return told | {
        "rope_parameters": {
            "rope_theta": c.rope_base, **(scaling or {"rope_type": "default"})
        },
        "layer_types": ["full_attention"] * c.layers,
        "dtype": dtype,
        "transformers_version": "5.23.0",
    }  # fmt: skip


def tensors(family, *, dtype="float32", seed=0):
    """Random tensors by their names; no bias at zero, no scale at one."""
    c, rng = FAMILIES[family], np.random.default_rng(seed)
    D, Q, K, F = c.width, c.heads * c.head_dim, c.kv_heads * c.head_dim, c.mlp_width
    shapes = {"model.embed_tokens.weight": (c.vocabulary, D), "model.norm.weight": (D,)}
    for n in range(c.layers):
        of_layer = {
            "input_layernorm.weight": (D,),
            "self_attn.q_proj.weight": (Q, D),
            "self_attn.k_proj.weight": (K, D),
            "self_attn.v_proj.weight": (K, D),
            "self_attn.o_proj.weight": (D, Q),
            "post_attention_layernorm.weight": (D,),
            "mlp.gate_proj.weight": (F, D),
            "mlp.up_proj.weight": (F, D),
            "mlp.down_proj.weight": (D, F),
        }
        if family == "Qwen2":
            of_layer |= {f"self_attn.{p}_proj.bias": (s,) for p, s in zip("qkv", (Q, K, K))}  # noqa: B905
        if family == "Qwen3":
            of_layer |= {f"self_attn.{p}_norm.weight": (c.head_dim,) for p in "qk"}
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in of_layer.items()}
    if not c.tied_head:
        shapes["lm_head.weight"] = (c.vocabulary, D)
    return {
        name: (("norm" in name) + 0.3 * rng.normal(size=shape)).astype(DTYPES[dtype])
        for name, shape in shapes.items()
    }


def imported(family, named):
    """The tensors as our tree, in the type they have."""
    c = FAMILIES[family]

    def stacked(name):
        layers = [named[f"model.layers.{n}.{name}"] for n in range(c.layers)]
        return np.stack([w.T if w.ndim == 2 else w for w in layers])

    attention = {}
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
        attention[ours] = {"kernel": stacked(f"self_attn.{theirs}_proj.weight")}
        if c.qkv_bias and ours != "output":
            attention[ours]["bias"] = stacked(f"self_attn.{theirs}_proj.bias")
        if c.qk_norm and ours in ("query", "key"):
            attention[f"{ours}_norm"] = {"scale": stacked(f"self_attn.{theirs}_norm.weight")}
    params = {
        "embed": {"embedding": named["model.embed_tokens.weight"]},
        "layers": {
            "attention_norm": {"scale": stacked("input_layernorm.weight")},
            "attention": attention,
            "mlp_norm": {"scale": stacked("post_attention_layernorm.weight")},
            "mlp": {n: {"kernel": stacked(f"mlp.{n}_proj.weight")} for n in ("gate", "up", "down")},
        },
        "final_norm": {"scale": named["model.norm.weight"]},
    }
    if not c.tied_head:
        params["head"] = {"kernel": named["lm_head.weight"].T}
    return {"params": params}


def write(folder, told, named, *, shards=1):
    """The folder; with several shards, layers are torn between them, as in released ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(told))
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    if shards == 1:
        names = ["model.safetensors"]
    parts = np.array_split(sorted(named), shards)
    for file, part in zip(names, parts, strict=True):
        save_file(
            {name: np.ascontiguousarray(named[name]) for name in part.tolist()},
            folder / file,
            metadata={"format": "pt"},
        )
    if shards > 1:
        where = {str(name): f for f, part in zip(names, parts, strict=True) for name in part}
        size = sum(array.nbytes for array in named.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
