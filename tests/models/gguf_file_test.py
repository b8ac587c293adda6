"""GGUF files become folders with the numbers, ids and template that were put into them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlrazor.models.gguf_file import convert_gguf
from rlrazor.models.pretrained import load_pretrained
from rlrazor.models.rope import Llama3Scaling, rope_frequencies
from rlrazor.runtime.chat import load_chat, prompt
from rlrazor.runtime.chat_source import PROBES
from rlrazor.runtime.tensor_files import read_json
from rlrazor.runtime.tokenizer import load_tokenizer
from tests.oracles import tiny_chats
from tests.oracles import tiny_checkpoints as tiny

gguf = pytest.importorskip("gguf")

from tests.oracles import tiny_gguf  # noqa: E402

CUTS = {"Qwen2": ("qwen", "qwen2"), "Llama": ("llama", "llama-bpe")}
TEMPLATES = {"Qwen2": tiny_chats.CHATML, "Llama": tiny_chats.LLAMA3}


@pytest.fixture(scope="module", params=CUTS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    for family, (name, _) in CUTS.items():
        tiny_chats.save(folder / family, name, TEMPLATES[family], ends=("<|endoftext|>",)[:0])
    return folder


def written(tmp_path, tokenizers, family, *, tensors=None, **how):
    return tiny_gguf.write(
        tmp_path / "model.gguf", family, tiny.tensors(family) if tensors is None else tensors,
        tokenizer=tokenizers / family, cut=CUTS[family][1], **how,
    )  # fmt: skip


def test_weights_are_those_put_in(tmp_path, tokenizers, family):
    convert_gguf(written(tmp_path, tokenizers, family), tmp_path / "model")
    config, params, _ = load_pretrained(tmp_path / "model")
    expected = tiny.imported(family, tiny.tensors(family))
    found = {str(k): v for k, v in _leaves(params)}
    assert found.keys() == {str(k) for k, _ in _leaves(expected)}
    for path, leaf in _leaves(expected):
        np.testing.assert_array_equal(found[str(path)], leaf)
    shape = dataclasses.replace(tiny.FAMILIES[family], rope_scaling=None)
    named = [field.name for field in dataclasses.fields(shape) if "dtype" not in field.name]
    for name in named:
        assert getattr(config, name) == getattr(shape, name), name


def _leaves(tree):
    return jax.tree.leaves_with_path(tree)


def test_ids_and_prompts_are_those_of_the_tokenizer_put_in(tmp_path, tokenizers, family):
    convert_gguf(written(tmp_path, tokenizers, family), tmp_path / "model")
    ours, theirs = load_tokenizer(tmp_path / "model"), load_tokenizer(tokenizers / family)
    texts = [*PROBES, "a<|im_end|>b<think>c", "12345 6 <|eot_id|>"]
    for text in texts:
        assert ours.encode(text).ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text).ids) == theirs.decode(
            theirs.encode(text, add_special_tokens=False).ids
        )
    chats = [load_chat(folder) for folder in (tmp_path / "model", tokenizers / family)]
    asked = [{"role": "user", "content": "How many, 12 or 3?"}]
    first, second = (prompt(chat, asked, bos_token="<|begin_of_text|>") for chat in chats)
    np.testing.assert_array_equal(first, second)
    assert chats[0].stop_ids == chats[1].stop_ids
    assert chats[0].end == chats[1].end


def test_texts_begin_as_the_file_says(tmp_path, tokenizers):
    begin = load_tokenizer(tokenizers / "Llama").token_to_id("<|begin_of_text|>")
    changes = {"tokenizer.ggml.bos_token_id": begin, "tokenizer.ggml.add_bos_token": True}
    file = written(tmp_path, tokenizers, "Llama", changes=changes)
    convert_gguf(file, tmp_path / "model")
    assert load_tokenizer(tmp_path / "model").encode("12").ids[0] == begin
    told = read_json(tmp_path / "model" / "tokenizer_config.json")
    assert told["bos_token"] == "<|begin_of_text|>"


def test_quantised_weights_are_the_numbers_they_stand_for(tmp_path, tokenizers):
    kind = gguf.GGMLQuantizationType.Q8_0
    named = tiny.tensors("Llama")
    quantised = {f"blk.{n}.{name}.weight": kind for n in (0, 1) for name in ("attn_q", "ffn_up")}
    file = written(tmp_path, tokenizers, "Llama", kinds=quantised)
    convert_gguf(file, tmp_path / "model")
    found = load_pretrained(tmp_path / "model")[1]
    expected = tiny.imported("Llama", named)
    for module in ("attention/query", "mlp/up"):
        ours, exact = (_at(tree, f"params/layers/{module}/kernel") for tree in (found, expected))
        error = np.abs(ours - exact).max() / np.abs(exact).max()
        assert 1e-5 < error < 1 / 127
    first, second = module.split("/")  # the up projection is not turned: exactly the blocks
    back = gguf.dequantize(gguf.quantize(named["model.layers.1.mlp.up_proj.weight"], kind), kind)
    np.testing.assert_array_equal(found["params"]["layers"][first][second]["kernel"][1], back.T)
    assert "Q8_0" in (tmp_path / "model" / "README.md").read_text()


def _at(tree, path):
    for step in path.split("/"):
        tree = tree[step]
    return np.asarray(tree)


def test_a_tied_head_and_half_precision(tmp_path, tokenizers):
    file = written(tmp_path, tokenizers, "Qwen2")
    convert_gguf(file, tmp_path / "model", dtype="bfloat16")
    fields = read_json(tmp_path / "model" / "config.json")
    assert fields["tie_word_embeddings"] == tiny.FAMILIES["Qwen2"].tied_head
    params = load_pretrained(tmp_path / "model")[1]
    exact = tiny.imported("Qwen2", tiny.tensors("Qwen2"))["params"]["embed"]["embedding"]
    np.testing.assert_allclose(params["params"]["embed"]["embedding"], exact, rtol=2**-8)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_scaling_is_found_by_its_frequencies(tmp_path, tokenizers, factor):
    shape, scaling = tiny.FAMILIES["Llama"], Llama3Scaling(factor, 1.0, 4.0, 8192)
    plain, scaled = (
        rope_frequencies(shape.head_dim, base=shape.rope_base, scaling=s) for s in (None, scaling)
    )
    factors = (plain / scaled).astype(np.float32)
    extra = {"tensors": {"rope_freqs.weight": factors}}
    convert_gguf(written(tmp_path, tokenizers, "Llama", changes=extra), tmp_path / "model")
    assert load_pretrained(tmp_path / "model")[0].rope_scaling == scaling
    extra = {"tensors": {"rope_freqs.weight": factors * 1.5}}
    with pytest.raises(ValueError, match=r"is not that of Llama 3\.1 or 3\.2"):
        convert_gguf(written(tmp_path, tokenizers, "Llama", changes=extra), tmp_path / "other")
    assert not (tmp_path / "other").exists()


REFUSED = {
    "general.architecture is 'gemma'; allowed are llama, qwen2": {"general.architecture": "gemma"},
    "tokenizer.ggml.pre is 'falcon'; allowed are gpt-2, smollm": {"tokenizer.ggml.pre": "falcon"},
    "tokenizer.ggml.model is 'llama'; only 'gpt2'": {"tokenizer.ggml.model": "llama"},
    "llama.block_count is missing": {"llama.block_count": None},
    "llama.expert_count is 8; it must be dense": {"llama.expert_count": 8},
    "llama.rope.scaling.type is 'yarn'": {"llama.rope.scaling.type": "yarn"},
    "llama.rope.dimension_count is not the 24 of a head": {"llama.rope.dimension_count": 12},
    "the tensor 'blk.0.router.weight' has no place": {
        "tensors": {"blk.0.router.weight": np.ones(4, np.float32)}
    },
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_computed_is_named(tmp_path, tokenizers, sentence):
    file = written(tmp_path, tokenizers, "Llama", changes=REFUSED[sentence])
    with pytest.raises(ValueError, match=f"model.gguf: {sentence}"):
        convert_gguf(file, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*missing\.gguf; give a GGUF file"):
        convert_gguf(tmp_path / "missing.gguf", tmp_path / "model")
    (tmp_path / "text.gguf").write_text("not one")
    with pytest.raises(ValueError, match=r"text\.gguf is not a GGUF file that can be read"):
        convert_gguf(tmp_path / "text.gguf", tmp_path / "model")
    (tmp_path / "m-00001-of-00002.gguf").write_text("half")
    with pytest.raises(ValueError, match=r"there is no .*m-00002-of-00002\.gguf; give .* all its"):
        convert_gguf(tmp_path / "m-00001-of-00002.gguf", tmp_path / "model")


def test_a_folder_is_replaced_only_when_asked(tmp_path, tokenizers):
    file = written(tmp_path, tokenizers, "Llama")
    convert_gguf(file, tmp_path / "model")
    with pytest.raises(ValueError, match="exists and is not empty"):
        convert_gguf(file, tmp_path / "model")
    convert_gguf(file, tmp_path / "model", overwrite=True)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"] == 40
