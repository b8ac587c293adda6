"""A GGUF file of a tiny model, its tensors in llama.cpp's names and order."""

import json

import gguf
import numpy as np

from tests.oracles import tiny_checkpoints as tiny

LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def named(name):
    module, kind = name.rsplit(".", 1)
    if module in WHOLE:
        return f"{WHOLE[module]}.{kind}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{LAYER[rest]}.{kind}"


def in_pairs(array, heads):
    """Rows of each head as llama.cpp has them: what is rotated together lies side by side."""
    found = np.empty_like(array)
    size = len(array) // heads
    for h in range(heads):
        for i in range(size // 2):
            found[h * size + 2 * i] = array[h * size + i]
            found[h * size + 2 * i + 1] = array[h * size + size // 2 + i]
    return found


def write(path, family, tensors, *, tokenizer, cut, changes=None, kinds=None):
    """`tokenizer` is a folder with tokenizer.json; `changes` are other fields, None for none."""
    shape, kind = tiny.FAMILIES[family], family.lower()
    spoken = json.loads((tokenizer / "tokenizer.json").read_text())
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    template = (tokenizer / "chat_template.jinja").read_text()
    added = {token["content"]: token["special"] for token in spoken["added_tokens"]}
    ids = {**spoken["model"]["vocab"], **{t["content"]: t["id"] for t in spoken["added_tokens"]}}
    words = sorted(ids, key=ids.get)
    assert [ids[word] for word in words] == list(range(len(words)))
    fields = {
        "block_count": shape.layers, "context_length": 4096, "embedding_length": shape.width,
        "feed_forward_length": shape.mlp_width, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "attention.key_length": shape.head_dim,
        "rope.freq_base": shape.rope_base, "rope.dimension_count": shape.head_dim,
        "attention.layer_norm_rms_epsilon": shape.norm_epsilon,
    }  # fmt: skip
    fields = {f"{kind}.{name}": value for name, value in fields.items()}
    fields |= {
        "general.name": "Tiny", "general.license": "apache-2.0",
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [{True: 3, False: 4}.get(added.get(w), 1) for w in words],
        "tokenizer.ggml.merges": [
            m if isinstance(m, str) else " ".join(m) for m in spoken["model"]["merges"]
        ],
        "tokenizer.ggml.eos_token_id": ids[settings["eos_token"]],
        "tokenizer.chat_template": template,
    }  # fmt: skip
    fields |= changes or {}
    writer = gguf.GGUFWriter(path, fields.pop("general.architecture", kind))
    for name, value in fields.items():
        if value is not None:
            _put(writer, name, value)
    for name, array in tensors.items():
        stored = array
        for module, heads in (("q_proj", shape.heads), ("k_proj", shape.kv_heads)):
            if family == "Llama" and f".{module}." in name:
                stored = in_pairs(array, heads)
        quantised = (kinds or {}).get(named(name))
        if quantised is None:
            writer.add_tensor(named(name), np.ascontiguousarray(stored, np.float32))
        else:
            blocks = gguf.quantize(np.ascontiguousarray(stored, np.float32), quantised)
            writer.add_tensor(named(name), blocks, raw_dtype=quantised)
    for name, array in (changes or {}).get("tensors", {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _put(writer, name, value):
    if name == "tensors":
        return
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
