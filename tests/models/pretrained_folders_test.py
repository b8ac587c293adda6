"""Folders as people have them: read as transformers reads them, and written over with care."""

import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from rlrazor.models.pretrained import load_pretrained, save_pretrained
from rlrazor.models.pretrained_config import config_from_json
from tests.oracles import tiny_checkpoints as tiny


def checkpoint(folder, family):
    return tiny.write(folder, tiny.fields(family), tiny.tensors(family), shards=3)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def params_of(folder):
    return load_pretrained(folder)[1]


def test_one_file_goes_before_an_index_as_in_transformers(tmp_path):
    """Whose shards are there, or gone as transformers leaves the folder it saves into."""
    checkpoint(tmp_path, "Qwen2")
    new = tiny.tensors("Qwen2", seed=1)
    save_file(new, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_equal(params_of(tmp_path), tiny.imported("Qwen2", new))
    for shard in tmp_path.glob("model-*.safetensors"):
        shard.unlink()
    assert_equal(params_of(tmp_path), tiny.imported("Qwen2", new))


def test_what_a_folder_means_is_what_transformers_loads(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    checkpoint(tmp_path, "Qwen2")
    new = tiny.tensors("Qwen2", seed=1)
    save_file(new, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    found = loaded.model.embed_tokens.weight.detach().numpy()
    np.testing.assert_array_equal(found, params_of(tmp_path)["params"]["embed"]["embedding"])


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "name",
    [
        "model.rotary_emb.inv_freq",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "module.model.layers.1.self_attn.rotary_emb.inv_freq",
    ],
)
def test_stored_frequencies_are_left_alone(tmp_path, name, shards):
    named = tiny.tensors("Llama")
    if name.startswith("module."):
        named = {f"module.{k}": v for k, v in named.items()}
    odd = named | {name: np.ones(12)}  # in a type that is no parameter's
    tiny.write(tmp_path, tiny.fields("Llama"), odd, shards=shards)
    _, params, read = load_pretrained(tmp_path)
    assert_equal(params, tiny.imported("Llama", tiny.tensors("Llama")))
    assert read.bytes_read == read.bytes_stored


def inside(wrapper):
    """As a wrapper of every layer's attention names it."""
    return lambda name: name.replace("self_attn.", f"self_attn.{wrapper}.")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"policy.base_model.model.{name}",
        lambda name: name.replace("model.", "model.language_model."),
        lambda name: name if name.startswith("lm_head") else name.removeprefix("model."),
        inside("_orig_mod"),
        inside("_fsdp_wrapped_module"),
        inside("_checkpoint_wrapped_module"),
    ],
)
@pytest.mark.parametrize("family", ["Qwen2", "Llama"])
def test_names_are_read_through_what_wrapped_the_model(tmp_path, family, wrapped):
    named = tiny.tensors(family)
    stored = {wrapped(name): array for name, array in named.items()}
    tiny.write(tmp_path, tiny.fields(family), stored, shards=2)
    assert_equal(params_of(tmp_path), tiny.imported(family, named))


def test_names_that_cannot_be_read_through_are_shown(tmp_path):
    named = tiny.tensors("Qwen3")
    some = {(f"module.{k}" if "layers.1" in k else k): v for k, v in named.items()}
    tiny.write(tmp_path / "some", tiny.fields("Qwen3"), some)
    with pytest.raises(ValueError, match=r"asks for \(it has 'module.model.layers.1.input_lay"):
        load_pretrained(tmp_path / "some")
    twice = {f"_orig_mod.{k}": v for k, v in named.items()} | named
    tiny.write(tmp_path / "twice", tiny.fields("Qwen3"), twice)
    with pytest.raises(ValueError, match=r"which are both 'lm_head.weight'; save the model again"):
        load_pretrained(tmp_path / "twice")
    base = {
        f"base_model.model.{k}".replace("q_proj", "q_proj.base_layer"): v for k, v in named.items()
    }
    a = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": np.zeros((2, 32))
    }
    tiny.write(tmp_path / "peft", tiny.fields("Qwen3"), base | a)
    with pytest.raises(ValueError, match=r"adapters that were never merged .*merge_and_unload"):
        load_pretrained(tmp_path / "peft")
    alone = tmp_path / "adapter"
    alone.mkdir()
    (alone / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter and no model; load the model that"):
        load_pretrained(alone)


def test_a_stored_head_that_is_the_embedding_is_no_other(tmp_path):
    """As torch's own formats and some wrappers store both; or the head alone."""
    named = tiny.tensors("Qwen2")
    embedding = named["model.embed_tokens.weight"]
    tiny.write(tmp_path / "both", tiny.fields("Qwen2"), named | {"lm_head.weight": embedding})
    assert_equal(params_of(tmp_path / "both"), tiny.imported("Qwen2", named))
    alone = {k: v for k, v in named.items() if v is not embedding} | {"lm_head.weight": embedding}
    tiny.write(tmp_path / "alone", tiny.fields("Qwen2"), alone)
    assert_equal(params_of(tmp_path / "alone"), tiny.imported("Qwen2", named))
    other = embedding.copy()
    other[-1, -1] += 1
    tiny.write(tmp_path / "other", tiny.fields("Qwen2"), named | {"lm_head.weight": other})
    with pytest.raises(ValueError, match=r"'lm_head.weight', .* set tie_word_embeddings to false"):
        load_pretrained(tmp_path / "other")


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_both_fields_of_the_rotation_may_stand_and_say_the_same(family):
    four, five = tiny.fields(family), tiny.fields(family, version=5)
    same = five["rope_parameters"]
    scaling = four["rope_scaling"] or {"type": "default"}
    for told in (
        four | {"rope_parameters": same},
        four | {"rope_parameters": same, "rope_scaling": same},
        five | {"rope_scaling": same},
        five | {"rope_scaling": scaling},  # whose rope_theta is said in the other one
        five | {"rope_scaling": {}},
        five | {"rope_theta": same["rope_theta"], "rope_scaling": scaling},
    ):
        assert config_from_json(told) == tiny.FAMILIES[family]
    with pytest.raises(ValueError, match=r"say different things, a rope_theta of .* and a rope_th"):
        config_from_json(five | {"rope_scaling": same | {"rope_theta": 3.0}})
    other = tiny.fields("Llama" if family != "Llama" else "Qwen3", version=5)["rope_parameters"]
    with pytest.raises(ValueError, match="say different things"):
        config_from_json(
            four
            | {"rope_parameters": other | {"rope_theta": four["rope_theta"]}}
            | {"rope_scaling": scaling}
        )


def test_an_earlier_save_is_replaced_only_on_request(tmp_path, monkeypatch):
    config, params = tiny.QWEN3, tiny.imported("Qwen3", tiny.tensors("Qwen3"))
    other = tiny.imported("Qwen3", tiny.tensors("Qwen3", seed=1))
    folder = tmp_path / "model"
    save_pretrained(folder, config, params, max_shard_bytes=10_000)
    with pytest.raises(ValueError, match="or overwrite=True to replace an earlier save"):
        save_pretrained(folder, config, other)

    # Killed while it writes: what was there is there, and the next save is not in its way.
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlrazor.runtime.tensor_files._write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(folder, config, other, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "model.partial"}
    assert_equal(params_of(folder), params)
    save_pretrained(folder, config, other, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"model"}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert_equal(params_of(folder), other)
    # Killed between the two renames: the whole new one, or the old one, lies beside.
    folder.rename(tmp_path / "model.old")
    save_pretrained(folder, config, params)
    assert {p.name for p in tmp_path.iterdir()} == {"model"}
    assert_equal(params_of(folder), params)


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/", "model.safetensors.bak"])
def test_what_is_no_earlier_save_is_never_replaced(tmp_path, name):
    config, params = tiny.QWEN3, tiny.imported("Qwen3", tiny.tensors("Qwen3"))
    folder = tmp_path / "model"
    save_pretrained(folder, config, params)
    (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("mine")
    with pytest.raises(ValueError, match=re.escape(f"holds {name.strip('/')!r}, which is no part")):
        save_pretrained(folder, config, params, overwrite=True)
    assert (folder / name).exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="holds 'file', which is no part of what is saved"):
        save_pretrained(tmp_path / "file", config, params, overwrite=True)
