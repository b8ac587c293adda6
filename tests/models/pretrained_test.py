"""Released weights in and out, on small checkpoints written by hand; every mistake is named."""

import dataclasses
import json
import re
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file

from rlrazor.models.pretrained import load_pretrained, parameter_shapes, save_pretrained
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import compile_once, make_mesh
from tests.oracles import tiny_checkpoints as tiny
from tests.oracles.tiny_transformers import quick

ALL = list(tiny.FAMILIES)


def checkpoint(folder, family="Qwen3", *, shards=3, **change):
    return tiny.write(folder, tiny.fields(family) | change, tiny.tensors(family), shards=shards)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), str(path))


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("family", ALL)
def test_every_tensor_of_a_family_finds_its_place(tmp_path, family, version):
    named = tiny.tensors(family)
    tiny.write(tmp_path, tiny.fields(family, version=version), named, shards=3)
    config, params, read = load_pretrained(tmp_path)
    assert config == tiny.FAMILIES[family]
    assert_equal(params, tiny.imported(family, named))
    size = sum(array.nbytes for array in named.values())
    assert (read.folder, len(read.files)) == (tmp_path, 3)
    assert read.bytes_read == read.bytes_stored == size
    # It is the tree that the model makes itself, and a model can use it.
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, parameter_shapes(config))
    tokens = np.arange(10).reshape(2, 5)
    hidden = quick(lambda params: Transformer(config).apply(params, tokens)[0])(params)
    assert np.isfinite(hidden).all()


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_types_are_converted_on_the_way(tmp_path, stored):
    named = tiny.tensors("Qwen2", dtype=stored)
    tiny.write(tmp_path, tiny.fields("Qwen2"), named)
    for wanted in ("float32", "bfloat16"):
        config, params, _ = load_pretrained(
            tmp_path, param_dtype=wanted, compute_dtype="bfloat16", scan_layers=False
        )
        assert (config.param_dtype, config.compute_dtype, config.scan_layers) == (
            wanted, "bfloat16", False,
        )  # fmt: skip
        expected = tiny.imported("Qwen2", named)
        assert_equal(params, jax.tree.map(lambda x: x.astype(wanted), expected))  # noqa: B023


def by_size(mesh):
    """Shapes -> shardings: the widest two axes over fsdp and tensor, the layers never."""

    def sharding(leaf):
        axes = [None] * len(leaf.shape)
        order = np.argsort(leaf.shape)[::-1][: 2 if len(leaf.shape) > 1 else 1]
        for axis, name in zip(order, ("tensor", "fsdp"), strict=False):
            axes[axis] = name
        return NamedSharding(mesh, P(*axes))

    return lambda config, shapes: jax.tree.map(sharding, shapes)


@pytest.mark.parametrize("sizes", [(1, 2, 2), (2, 2, 1), (1, 1, 4), (4, 1, 1)])
@pytest.mark.parametrize("family", ALL)
def test_sharded_is_unsharded_and_every_byte_is_read_once(tmp_path, family, sizes):
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    checkpoint(tmp_path, family)
    _, plain, _ = load_pretrained(tmp_path)
    _, params, read = load_pretrained(tmp_path, shardings=by_size(mesh))
    assert_equal(params, plain)
    shardings = by_size(mesh)(None, plain)
    jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or 1 / 0, params, shardings)
    assert read.bytes_read == read.bytes_stored


def test_shardings_come_as_a_function_a_tree_or_a_prefix(tmp_path):
    mesh = make_mesh(data=2, fsdp=2)
    checkpoint(tmp_path)
    everywhere, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("fsdp"))
    _, plain, _ = load_pretrained(tmp_path)
    tree = jax.tree.map(lambda x: rows, plain)
    prefix = {"params": dict.fromkeys(plain["params"], everywhere) | {"layers": rows}}
    for given, of_layers in ((everywhere, everywhere), (tree, rows), (prefix, rows)):
        _, params, _ = load_pretrained(tmp_path, shardings=given)
        assert_equal(params, plain)
        for leaf in jax.tree.leaves(params["params"]["layers"]):
            assert leaf.sharding.is_equivalent_to(of_layers, leaf.ndim)
    with pytest.raises(ValueError, match="layers"):
        load_pretrained(tmp_path, shardings={"params": {"embed": rows}})


def test_layers_may_be_sharded_too(tmp_path):
    mesh = make_mesh(data=2, tensor=2)
    checkpoint(tmp_path, "Llama")
    _, plain, _ = load_pretrained(tmp_path)
    over = {1: P(), 2: P("data", "tensor"), 3: P("data", None, "tensor")}
    _, params, read = load_pretrained(
        tmp_path,
        shardings=lambda config, shapes: jax.tree.map(
            lambda leaf: NamedSharding(mesh, over[len(leaf.shape)]), shapes
        ),
    )
    assert_equal(params, plain)
    assert read.bytes_read == read.bytes_stored


@pytest.mark.parametrize("shardings", [None, "everywhere"])
def test_what_was_loaded_may_be_donated(tmp_path, shardings):
    """Devices that hold the same slice share no memory, and the files' pages are not written."""
    checkpoint(tmp_path)
    if shardings:
        shardings = NamedSharding(make_mesh(data=0), P())
    _, expected, _ = load_pretrained(tmp_path)
    expected = jax.tree.map(lambda x: np.array(x) + 1, expected)
    _, params, _ = load_pretrained(tmp_path, shardings=shardings)
    add = compile_once(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate=(0,))
    changed = add(params)
    jax.block_until_ready(changed)
    for leaf, whole in zip(jax.tree.leaves(changed), jax.tree.leaves(expected), strict=True):
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 10_000])
def test_a_round_trip_keeps_every_bit(tmp_path, family, max_shard_bytes):
    named = tiny.tensors(family)
    source = tiny.write(tmp_path / "in", tiny.fields(family), named)
    (source / "tokenizer.json").write_text("{}")
    (source / "secret.bin").write_text("not a tokenizer")
    config, params, _ = load_pretrained(source)
    out = tmp_path / "deep" / "out"
    save_pretrained(out, config, params, source=source, max_shard_bytes=max_shard_bytes)
    again, same, read = load_pretrained(out)
    assert again == config
    assert_equal(same, params)
    found = {}
    for file in read.files:
        tensors = load_file(file)
        assert not found.keys() & tensors.keys()
        found |= tensors
        largest = max(array.nbytes for array in tensors.values())
        assert sum(array.nbytes for array in tensors.values()) <= max(max_shard_bytes, largest)
    assert found.keys() == named.keys()
    for name, array in named.items():
        np.testing.assert_array_equal(found[name], array)
    assert (len(read.files) > 1) == (max_shard_bytes == 10_000)
    assert (out / "tokenizer.json").exists()
    assert not (out / "secret.bin").exists()
    assert {p.name for p in out.parent.iterdir()} == {"out"}
    told = json.loads((out / "config.json").read_text())
    assert (told["eos_token_id"], told["max_position_embeddings"]) == ([1, 2], 4096)
    assert told["use_cache"] is False
    assert told["torch_dtype"] == "float32"


def test_sharded_parameters_are_saved_and_another_type_on_request(tmp_path):
    named = tiny.tensors("Qwen2")
    source = tiny.write(tmp_path / "in", tiny.fields("Qwen2", version=5), named)
    config, params, _ = load_pretrained(
        source, shardings=by_size(make_mesh(data=1, fsdp=2, tensor=2))
    )
    for n, given in enumerate((params, jax.tree.map(np.asarray, params))):
        out = tmp_path / f"out{n}"
        save_pretrained(out, config, given, dtype="bfloat16", source=source)
        found = load_file(out / "model.safetensors")
        for name, array in named.items():
            np.testing.assert_array_equal(found[name], array.astype(tiny.DTYPES["bfloat16"]))
        told = json.loads((out / "config.json").read_text())
        assert told["torch_dtype"] == "bfloat16"
        # Of the source's two spellings of one thing, one is left.
        assert not told.keys() & {"dtype", "rope_parameters", "layer_types"}


def test_a_model_without_a_source_has_a_whole_config(tmp_path):
    for n, (family, config) in enumerate(tiny.FAMILIES.items()):
        params = tiny.imported(family, tiny.tensors(family))
        save_pretrained(tmp_path / str(n), config, params)
        assert load_pretrained(tmp_path / str(n))[0] == config
    told = json.loads((tmp_path / "2" / "config.json").read_text())
    assert told["max_position_embeddings"] == 8 * 64


def test_saving_replaces_nothing_and_a_cut_off_save_leaves_nothing(tmp_path):
    config, params = tiny.QWEN3, tiny.imported("Qwen3", tiny.tensors("Qwen3"))
    torn = params["params"] | {"head": {"kernel": np.zeros((32, 40), np.int8)}}
    cut_off = tmp_path / "model.partial"
    cut_off.mkdir()
    (cut_off / "left").write_text("")
    with pytest.raises(ValueError, match=r"head/kernel is int8; allowed are .*'float32'"):
        save_pretrained(tmp_path / "model", config, {"params": torn})
    (tmp_path / "model").mkdir()  # empty: as good as none
    save_pretrained(tmp_path / "model", config, params)
    assert {p.name for p in tmp_path.iterdir()} == {"model"}
    with pytest.raises(ValueError, match=r"model exists and is not empty; give a new folder"):
        save_pretrained(tmp_path / "model", config, params)
    with pytest.raises(ValueError, match=r"lack 'layers/attention/key/bias'; give the config"):
        save_pretrained(tmp_path / "b", dataclasses.replace(config, qkv_bias=True), params)
    with pytest.raises(ValueError, match=r"have the unknown 'head/kernel'"):
        save_pretrained(tmp_path / "b", dataclasses.replace(config, tied_head=True), params)
    with pytest.raises(ValueError, match=r"'layers/mlp/down/kernel' has the shape \[2, 56, 32\]"):
        save_pretrained(tmp_path / "b", dataclasses.replace(config, mlp_width=60), params)
    both = dataclasses.replace(config, qkv_bias=True)
    shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), parameter_shapes(both))
    with pytest.raises(ValueError, match=r"no supported architecture has .*'qkv_bias': True"):
        save_pretrained(tmp_path / "b", both, shapes)
    checkpoint(tmp_path / "llama", "Llama")
    with pytest.raises(ValueError, match=r"source is a LlamaForCausalLM .* a Qwen3ForCausalLM"):
        save_pretrained(tmp_path / "b", config, params, source=tmp_path / "llama")
    assert not (tmp_path / "b").exists()


def break_tensors(**change):
    """A checkpoint's tensors with some replaced or, for None, left out."""

    def broken(named):
        named = named | {name.replace("__", "."): array for name, array in change.items()}
        return {name: array for name, array in named.items() if array is not None}

    return broken


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"model__norm__weight": None}, "lacks the tensor 'model.norm.weight'"),
        ({"lm_head__weight": None}, "lacks the tensor 'lm_head.weight'"),
        (
            {"model__layers__1__self_attn__q_norm__weight": None},
            "lacks the tensor 'model.layers.1.self_attn.q_norm.weight'",
        ),
        (
            {"model__layers__2__mlp__up_proj__weight": np.zeros((56, 32), np.float32)},
            "holds the tensor 'model.layers.2.mlp.up_proj.weight', for which",
        ),
        (
            {"model__layers__0__self_attn__q_proj__bias": np.zeros(96, np.float32)},
            "holds the tensor 'model.layers.0.self_attn.q_proj.bias', for which",
        ),
        (
            {"model__layers__1__mlp__down_proj__weight": np.zeros((56, 32), np.float32)},
            "has 'model.layers.1.mlp.down_proj.weight' as [56, 32], its config.json as [32, 56]",
        ),
        (
            {"lm_head__weight": np.zeros((41, 32), np.float32)},
            "has 'lm_head.weight' as [41, 32], its config.json as [40, 32]",
        ),
        (
            {"model__norm__weight": np.zeros(32, np.int8)},
            "has 'model.norm.weight' as I8; allowed are ['BF16', 'F16', 'F32'], so a quantised",
        ),
        (
            {"model__norm__weight": np.zeros(32, np.float64)},
            "has 'model.norm.weight' as F64; allowed are",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, broken, message, monkeypatch):
    named = break_tensors(**broken)(tiny.tensors("Qwen3"))
    tiny.write(tmp_path, tiny.fields("Qwen3"), named, shards=3)
    # Before any tensor is read.
    monkeypatch.setattr("rlrazor.runtime.tensor_files.TensorFolder.read", None)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_pretrained(tmp_path)


def test_a_stored_head_of_a_tied_model_is_named(tmp_path):
    named = tiny.tensors("Qwen2") | {"lm_head.weight": np.zeros((40, 32), np.float32)}
    tiny.write(tmp_path, tiny.fields("Qwen2"), named)
    with pytest.raises(ValueError, match=r"'lm_head.weight', .* set tie_word_embeddings to false"):
        load_pretrained(tmp_path)


SCALED = tiny.fields("Llama")["rope_scaling"]


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("Qwen3", {"architectures": ["MistralForCausalLM"]}, "architectures is ['Mistral"),
        ("Qwen3", {"architectures": None}, "architectures is None; allowed is one of"),
        ("Qwen3", {"architectures": [["x"]]}, "architectures is [['x']]; allowed"),
        ("Qwen3", {"model_type": "llama"}, "model_type is 'llama', but a Qwen3ForCausalLM is a"),
        ("Qwen3", {"hidden_size": ...}, "hidden_size is missing"),
        ("Qwen3", {"head_dim": ...}, "head_dim is missing"),
        ("Qwen3", {"num_key_value_heads": None}, "num_key_value_heads must be a positive whole"),
        ("Qwen3", {"num_hidden_layers": "2"}, "num_hidden_layers must be a positive whole number"),
        ("Qwen3", {"num_hidden_layers": True}, "num_hidden_layers must be a positive whole"),
        ("Qwen3", {"num_attention_heads": 3}, "heads=3 must be a multiple of kv_heads, got 2"),
        ("Qwen3", {"head_dim": 23}, "head_dim must be even"),
        ("Qwen3", {"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, got 0"),
        ("Qwen3", {"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number"),
        ("Qwen3", {"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ("Qwen3", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported"),
        ("Qwen3", {"attention_bias": True}, "attention_bias is True; only False is supported"),
        ("Llama", {"attention_bias": True}, "attention_bias is True; only False is supported"),
        ("Llama", {"mlp_bias": True}, "mlp_bias is True; only False is supported"),
        ("Qwen2", {"use_sliding_window": True}, "use_sliding_window is True; only False"),
        ("Qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has 'sl"),
        ("Qwen3", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}; only"),
        ("Qwen3", {"rope_theta": ...}, "rope_theta is missing"),
        ("Qwen3", {"rope_theta": -1.0}, "rope_theta must be a positive number, got -1.0"),
        ("Qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        *[
            ("Qwen3", {"rope_scaling": {key: kind, "factor": 4.0}}, f"has the rope_type '{kind}'")
            for key, kind in (("rope_type", "yarn"), ("type", "dynamic"), ("rope_type", "linear"))
        ],
        ("Qwen3", {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters has the rope_t"),
        ("Qwen3", {"rope_scaling": "llama3"}, "rope_scaling must be an object, got 'llama3'"),
        (
            "Llama",
            {"rope_parameters": {"rope_theta": 1.0}},
            "both rope_parameters and rope_scaling are given and say different things",
        ),
        (
            "Llama",
            {"rope_scaling": {k: v for k, v in SCALED.items() if k != "low_freq_factor"}},
            "rope_scaling has the rope_type 'llama3' but no low_freq_factor",
        ),
        ("Llama", {"rope_scaling": SCALED | {"factor": "8"}}, "factor must be a positive number"),
        (
            "Llama",
            {"rope_scaling": SCALED | {"low_freq_factor": 9.0}},
            "rope scaling needs 0 < low_freq_factor < high_freq_factor, got 9.0 and 4.0",
        ),
    ],
)
def test_configs_that_we_cannot_compute_are_named(tmp_path, family, change, message):
    told = {k: v for k, v in (tiny.fields(family) | change).items() if v is not ...}
    tiny.write(tmp_path, told, tiny.tensors(family))
    file = re.escape(f"{tmp_path / 'config.json'}: ")
    with pytest.raises(ValueError, match=file + ".*" + re.escape(message)):
        load_pretrained(tmp_path)


def test_what_may_be_left_out_of_a_config(tmp_path):
    """As Qwen2.5's own config does: no head_dim, no rope_scaling, biases not mentioned."""
    named = {"num_attention_heads": 4, "hidden_size": 96, "num_hidden_layers": 1}
    told = tiny.fields("Qwen2") | named | {"hidden_act": ..., "tie_word_embeddings": ...}
    told |= {"head_dim": ..., "rope_scaling": ..., "use_sliding_window": ...}
    told |= {"attention_bias": False}
    from rlrazor.models.pretrained_config import config_from_json

    config = config_from_json({k: v for k, v in told.items() if v is not ...})
    assert config == dataclasses.replace(
        tiny.QWEN2, width=96, layers=1, head_dim=24, tied_head=False
    )
    odd = {k: v for k, v in (told | {"hidden_size": 97}).items() if v is not ...}
    with pytest.raises(ValueError, match="without head_dim, hidden_size=97 must be a multiple"):
        config_from_json(odd)


def test_how_to_compute_is_the_callers_and_the_rest_is_not(tmp_path):
    checkpoint(tmp_path)
    with pytest.raises(ValueError, match="layers is the model's, so it cannot be set to 1"):
        load_pretrained(tmp_path, layers=1)
    with pytest.raises(TypeError, match="typo"):
        load_pretrained(tmp_path, typo=1)
    with pytest.raises(ValueError, match="param_dtype must be"):
        load_pretrained(tmp_path, param_dtype="float16")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def edit(path, change):
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


INDEX, SECOND = "model.safetensors.index.json", "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: truncate(f / SECOND), f"{SECOND} cannot be read as safetensors"),
        (lambda f: (f / SECOND).write_bytes(b""), f"{SECOND} cannot be read as safetensors"),
        (
            lambda f: (f / SECOND).unlink(),
            f"lacks the file {SECOND}, which its index names for 'model.layers.0.self_attn.o_proj",
        ),
        (lambda f: (f / INDEX).unlink(), f"has model-00001-of-00003.safetensors but no {INDEX}"),
        (lambda f: (f / INDEX).write_text("{"), f"{INDEX} is not JSON"),
        (lambda f: (f / INDEX).write_text("{}"), f"{INDEX} has no weight_map"),
        (
            lambda f: edit(f / INDEX, lambda i: i["weight_map"].update(x="../x.safetensors")),
            "puts 'x' into '../x.safetensors'; it must lie in that folder",
        ),
        (
            lambda f: edit(f / INDEX, lambda i: i["weight_map"].update(x=SECOND)),
            f"{SECOND} lacks the tensor 'x', which its index promises",
        ),
        (
            lambda f: edit(f / INDEX, lambda i: i["weight_map"].pop("model.norm.weight")),
            "holds the tensor 'model.norm.weight', which its index ignores",
        ),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object, got list"),
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read (No such file"),
        (
            lambda f: [p.unlink() for p in f.iterdir() if p.name != "config.json"],
            f"has neither model.safetensors nor {INDEX}; weights of another format",
        ),
    ],
)
def test_files_that_are_broken_are_named(tmp_path, spoil, message):
    checkpoint(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_pretrained(tmp_path)


def test_a_tensor_whose_bytes_are_cut_off_inside_one_file_is_named(tmp_path):
    checkpoint(tmp_path, shards=1)
    truncate(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read as safetensors"):
        load_pretrained(tmp_path)


def test_the_host_never_holds_the_model(tmp_path):
    """What Python allocates: one tensor while saving, one parameter while loading."""
    config = dataclasses.replace(tiny.QWEN3, vocabulary=512, width=128, layers=16, mlp_width=256)
    shapes = parameter_shapes(config)
    zeros = jax.tree.map(lambda x: np.zeros((1,) * len(x.shape), x.dtype), shapes)
    params = jax.tree.map(lambda x, s: np.broadcast_to(x, s.shape), zeros, shapes)
    sizes = [leaf.size * 4 for leaf in jax.tree.leaves(shapes)]
    tracemalloc.start()
    save_pretrained(tmp_path / "out", config, params)
    _, saving = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    shardings = NamedSharding(make_mesh(data=1, fsdp=4), P())
    _, loaded, _ = load_pretrained(tmp_path / "out", shardings=shardings)
    _, loading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert saving < 4 * 512 * 128 * 4 < sum(sizes) / 5
    assert loading < 1.6 * max(sizes) < sum(sizes) / 2.5
    assert_equal(loaded, params)
