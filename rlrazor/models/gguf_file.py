"""Models of llama.cpp's GGUF files as Hugging Face folders: weights expanded, order undone.

Llama and Qwen2, dense. Quantised weights become the numbers that they stand for, so the model is
the quantised one.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlrazor.models.gguf_tokenizer import tokenizer_files
from rlrazor.models.pretrained_config import CONFIG, config_from_json
from rlrazor.models.rope import Llama3Scaling, rope_frequencies
from rlrazor.runtime.tensor_files import Planned, write_folder
from rlrazor.types import FloatName

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
NAMES = {  # theirs -> Hugging Face's; a layer's have its number before
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
ROPE_FACTORS = "rope_freqs.weight"  # of Llama 3.1 and later: by what each frequency is divided


def convert_gguf(
    file: str | Path,
    folder: str | Path,
    *,
    dtype: FloatName = "float32",
    overwrite: bool = False,
) -> None:
    """Writes a folder that `transformers` and `load_pretrained` load; the whole of it or none.

    One tensor is expanded at a time. Of a model in several files, give any one. ValueError names
    the file and the field or tensor that is missing or is not supported.
    """
    parts = _parts(Path(file))
    readers = [_opened(part) for part in parts]
    fields = {name: field.contents() for name, field in readers[0].fields.items()}
    stored = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
    try:
        factors = stored.pop(ROPE_FACTORS, None)
        config = _config(fields, stored, factors, dtype)
        beside = {CONFIG: json.dumps(config, indent=2) + "\n", **tokenizer_files(fields)}
        planned = [Planned(_name(name), _shape(t), jnp.dtype(dtype)) for name, t in stored.items()]
    except ValueError as error:
        raise ValueError(f"{parts[0]}: {error}") from error
    beside["README.md"] = _provenance(fields, parts, stored, dtype)
    arrays = _arrays(config, stored, planned)
    write_folder(
        Path(folder), planned, arrays, beside, max_shard_bytes=5_000_000_000, overwrite=overwrite
    )


def _parts(file: Path) -> list[Path]:
    found = PART.fullmatch(file.name)
    names = [file.name]
    if found:
        stem, _, count = found.groups()
        names = [f"{stem}-{n:05}-of-{count}.gguf" for n in range(1, int(count) + 1)]
    for name in names:
        if not (file.parent / name).is_file():
            raise ValueError(f"there is no {file.parent / name}; give a GGUF file, all its parts")
    return [file.parent / name for name in names]


def _opened(file: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ValueError("GGUF files need the gguf package: pip install 'rlrazor[gguf]'") from error
    try:
        return GGUFReader(file)  # maps the file into memory
    except Exception as error:  # whatever its bytes lead to
        raise ValueError(f"{file} is not a GGUF file that can be read ({error})") from error


def _config(
    fields: Mapping[str, Any], stored: Mapping[str, Any], factors: Any, dtype: FloatName
) -> dict[str, Any]:
    """Of Hugging Face, and one that `load_pretrained` takes."""
    kind = fields.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"general.architecture is {kind!r}; allowed are {', '.join(ARCHITECTURES)}"
        )

    def field(name: str, *default: Any) -> Any:
        key = f"{kind}.{name}"
        if key not in fields and not default:
            raise ValueError(f"{key} is missing; it is needed to build the model")
        return fields.get(key, *default)

    if field("expert_count", 0):
        raise ValueError(f"{kind}.expert_count is {field('expert_count')}; it must be dense")
    heads, width = field("attention.head_count"), field("embedding_length")
    if not isinstance(heads, int) or (width % heads and not field("attention.key_length", 0)):
        raise ValueError(f"{kind}.attention.head_count is {heads}, of a width of {width}")
    head_dim = field("attention.key_length", width // heads)
    if field("rope.dimension_count", head_dim) != head_dim:
        raise ValueError(f"{kind}.rope.dimension_count is not the {head_dim} of a head")
    if field("rope.scaling.type", "none") != "none":
        raise ValueError(f"{kind}.rope.scaling.type is {field('rope.scaling.type')!r}, not 'none'")
    if "token_embd.weight" not in stored:
        raise ValueError("the tensor token_embd.weight is missing")
    base = float(np.float32(field("rope.freq_base", 10_000.0)))
    config = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": _shape(stored["token_embd.weight"])[0],
        "hidden_size": width,
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": field("feed_forward_length"),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in stored,
        "rms_norm_eps": float(f"{field('attention.layer_norm_rms_epsilon'):.7g}"),  # from f32
        "rope_theta": base,
        "rope_scaling": None if factors is None else _scaling(factors, head_dim, base),
        "max_position_embeddings": field("context_length"),
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "torch_dtype": dtype,
    }
    config_from_json(config)
    return config


def _scaling(factors: Any, head_dim: int, base: float) -> dict[str, Any]:
    """Llama 3's, found by what its frequencies come out as: the file has only those."""
    found = np.asarray(factors.data, np.float64)
    plain = rope_frequencies(head_dim, base=base, scaling=None)
    for factor in (8.0, 32.0):  # of 3.1 and of 3.2
        scaling = Llama3Scaling(factor, 1.0, 4.0, 8192)
        divided = plain / scaling(plain)
        if found.shape == divided.shape and np.allclose(divided, found, rtol=1e-4):
            return {"rope_type": "llama3", **dataclasses.asdict(scaling)}
    raise ValueError(f"{ROPE_FACTORS} is not that of Llama 3.1 or 3.2, the ones supported")


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in reversed(tensor.shape))


def _name(name: str) -> str:
    found = TENSOR.fullmatch(name)
    if not found or found[2] not in NAMES:
        raise ValueError(f"the tensor {name!r} has no place in a Llama or Qwen2 model")
    layer = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{layer}{NAMES[found[2]]}.{found[3]}"


def _arrays(
    config: Mapping[str, Any], stored: Mapping[str, Any], planned: Sequence[Planned]
) -> Iterator[np.ndarray]:
    from gguf import dequantize

    turned = {}
    if config["model_type"] == "llama":  # llama.cpp rotates neighbours, others halves of a head
        turned["attn_q"] = config["num_attention_heads"]
        turned["attn_k"] = config["num_key_value_heads"]
    for (name, tensor), plan in zip(stored.items(), planned, strict=True):
        array = np.asarray(dequantize(tensor.data, tensor.tensor_type)).reshape(plan.shape)
        heads = turned.get(name.split(".")[-2])
        if heads:
            pairs = array.reshape(heads, -1, 2, *array.shape[1:])
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        yield array.astype(plan.dtype)


def _provenance(
    fields: Mapping[str, Any], parts: Sequence[Path], stored: Mapping[str, Any], dtype: FloatName
) -> str:
    kinds = sorted({tensor.tensor_type.name for tensor in stored.values()})
    lines = [
        f"# {fields.get('general.name', parts[0].stem)}",
        "",
        f"License: {fields.get('general.license', 'not said in the file')}",
        f"Made from GGUF, stored as {', '.join(kinds)} and expanded to {dtype}: numbers are those",
        "of the quantised model, not of the model that it was made from.",
        "",
    ]
    for part in parts:
        with part.open("rb") as file:
            lines.append(f"- {part.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return "\n".join(lines) + "\n"
