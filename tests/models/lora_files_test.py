"""Adapters alone in PEFT's layout: its names and shapes, and every mistake named."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from rlrazor.models.lora import lora_rules, merge
from rlrazor.models.lora_files import check_lora, load_lora, save_lora
from rlrazor.models.partition import transformer_rules
from rlrazor.models.pretrained import parameter_shapes
from rlrazor.runtime.mesh import make_mesh, shardings_of
from tests.oracles import tiny_checkpoints as tiny

CONFIG, RANK, SCALE = tiny.LLAMA, 3, 2.5


def adapters(targets=(".*",), *, config=CONFIG, rank=RANK):
    """Random ones, without asking the library for their shapes."""
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    lora = {}
    for path, leaf in jax.tree.leaves_with_path(shapes):
        *steps, last = [step.key for step in path[1:]]
        if last not in ("kernel", "embedding"):
            continue
        if not any(re.fullmatch(rf"(.*/)?({target})", "/".join(steps)) for target in targets):
            continue
        *stack, fan_in, fan_out = leaf.shape
        node = lora
        for step in steps:
            node = node.setdefault(step, {})
        node["a"] = rng.normal(size=(*stack, fan_in, rank)).astype(np.float32)
        node["b"] = rng.normal(size=(*stack, rank, fan_out)).astype(np.float32)
    return lora


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture
def saved(tmp_path):
    """A folder with adapters of two modules, and them."""
    lora = adapters(("attention/query", "mlp/down"))
    save_lora(tmp_path / "adapter", CONFIG, lora, SCALE, base="meta-llama/Llama-3.2-1B")
    return tmp_path / "adapter", lora


@pytest.mark.parametrize("targets", [(".*",), ("layers/.*",), ("query", "value"), ("head",)])
def test_a_round_trip_keeps_every_bit(tmp_path, targets):
    lora = adapters(targets)
    save_lora(tmp_path / "a", CONFIG, lora, SCALE)
    found, scale = load_lora(tmp_path / "a", CONFIG)
    assert_equal(found, lora)
    assert scale == pytest.approx(SCALE)


def test_names_and_shapes_are_those_of_peft(saved):
    folder, lora = saved
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    named = load_file(folder / "adapter_model.safetensors")
    attention, mlp = lora["layers"]["attention"]["query"], lora["layers"]["mlp"]["down"]
    assert len(named) == 2 * 2 * 2
    for n in range(2):
        layer = f"base_model.model.model.layers.{n}"
        # [rank, in] and [out, rank], as torch's linear maps hold them.
        for name, ours, shape in (
            ("self_attn.q_proj.lora_A.weight", attention["a"][n], (3, 32)),
            ("self_attn.q_proj.lora_B.weight", attention["b"][n], (96, 3)),
            ("mlp.down_proj.lora_A.weight", mlp["a"][n], (3, 56)),
            ("mlp.down_proj.lora_B.weight", mlp["b"][n], (32, 3)),
        ):
            assert named[f"{layer}.{name}"].shape == shape
            np.testing.assert_array_equal(named[f"{layer}.{name}"], ours.T)
    told = json.loads((folder / "adapter_config.json").read_text())
    assert (told["r"], told["lora_alpha"], told["peft_type"]) == (3, 7.5, "LORA")
    assert told["target_modules"] == ["down_proj", "q_proj"]
    assert told["base_model_name_or_path"] == "meta-llama/Llama-3.2-1B"


def test_the_change_is_the_product_in_their_layout(tmp_path):
    """W + alpha / r * B A on the stored [out, in] matrices, as PEFT documents it."""
    named = tiny.tensors("Llama")
    lora = adapters()
    save_lora(tmp_path / "a", CONFIG, lora, SCALE)
    theirs = load_file(tmp_path / "a" / "adapter_model.safetensors")
    expected = dict(named)
    for name, matrix in named.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in theirs:
            change = theirs[f"{stem}.lora_B.weight"] @ theirs[f"{stem}.lora_A.weight"]
        elif f"{stem}.lora_embedding_A" in theirs:
            change = (theirs[f"{stem}.lora_embedding_B"] @ theirs[f"{stem}.lora_embedding_A"]).T
        else:
            continue
        expected[name] = matrix + SCALE * change
    assert sum((expected[name] != named[name]).any() for name in named) == 2 + 2 * 7
    merged = merge(tiny.imported("Llama", named), lora, SCALE)
    for found, wanted in zip(
        jax.tree.leaves(merged), jax.tree.leaves(tiny.imported("Llama", expected)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("form", ["function", "prefix"])
def test_adapters_are_read_to_where_they_belong(saved, form):
    folder, lora = saved
    mesh = make_mesh(data=1, fsdp=2, tensor=2)
    if form == "function":
        rules = lora_rules(transformer_rules(CONFIG))
        shardings = lambda shapes: shardings_of(shapes, rules, mesh)  # noqa: E731
        expected = P(None, "fsdp", None)
    else:
        shardings, expected = NamedSharding(mesh, P()), P()
    found, _ = load_lora(folder, CONFIG, shardings=shardings)
    assert_equal(found, lora)
    a = found["layers"]["attention"]["query"]["a"]
    assert a.sharding.is_equivalent_to(NamedSharding(mesh, expected), a.ndim)


def test_rank_stabilised_adapters_have_their_own_scale(saved):
    folder, _ = saved
    edit(folder, use_rslora=True)
    assert load_lora(folder, CONFIG)[1] == pytest.approx(7.5 / np.sqrt(3))


def edit(folder, **change):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; only 'LORA' is supported"),
        ({"use_dora": True}, "use_dora is True; only False"),
        ({"bias": "all"}, "bias is 'all'; only 'none'"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is {'q_proj': 2}; only {}"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']; only None"),
        ({"layers_to_transform": [0]}, "layers_to_transform is [0]; only None"),
        ({"r": None}, "r must be a positive whole number, got None"),
        (
            {"r": 4},
            "has 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight' as [3, 32]",
        ),
        ({"lora_alpha": "8"}, "lora_alpha must be a number, got '8'"),
        ({"target_modules": ["q_proj", "up_proj"]}, "no tensors for 'up_proj', which its adapter_"),
    ],
)
def test_configs_that_we_cannot_apply_are_named(saved, change, message):
    folder, _ = saved
    edit(folder, **change)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_lora(folder, CONFIG)


@pytest.mark.parametrize(
    "targets", [["self_attn.q_proj", "model.layers.1.mlp.down_proj"], "q_proj|down_proj"]
)
def test_targets_may_be_spelled_otherwise(saved, targets):
    folder, lora = saved
    edit(folder, target_modules=targets)
    assert_equal(load_lora(folder, CONFIG)[0], lora)


NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NAME: None}, f"lacks the tensor '{NAME}', which its adapter_config.json asks for"),
        ({NAME: np.zeros((95, 3))}, f"has '{NAME}' as [95, 3], its adapter_config.json as [96, 3]"),
        ({"x.y": np.zeros(2)}, "holds the tensor 'x.y', for which its adapter_config.json has no"),
        (
            {NAME.replace("q_proj.lora_B", "q_proj.lora_magnitude_vector"): np.zeros(96)},
            "q_proj.lora_magnitude_vector.weight', for which",
        ),
        ({NAME: np.zeros((96, 3), np.int8)}, f"has '{NAME}' as I8; allowed are"),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved, change, message):
    folder, _ = saved
    path = folder / "adapter_model.safetensors"
    named = {**load_file(path), **change}
    save_file({k: np.asarray(v) for k, v in named.items() if v is not None}, path)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_lora(folder, CONFIG)


def test_files_that_are_not_there_are_named(saved):
    folder, _ = saved
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"has neither adapter_model.safetensors nor"):
        load_lora(folder, CONFIG)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"adapter_config.json cannot be read \(No such file"):
        load_lora(folder, CONFIG)


def test_adapters_of_another_model_are_not_saved(tmp_path):
    lora = adapters(("query",))
    other = dataclasses.replace(CONFIG, head_dim=22)
    message = "adapters have 'layers/attention/query/b' as [2, 3, 96], the config allows [2, 3, 88]"
    with pytest.raises(ValueError, match=re.escape(message)):
        save_lora(tmp_path / "a", other, lora, SCALE)
    with pytest.raises(
        ValueError, match=r"adapters have 'x/a' as \[2, 2\], the config allows none"
    ):
        save_lora(tmp_path / "a", CONFIG, {"x": {"a": np.zeros((2, 2))}}, SCALE)
    with pytest.raises(ValueError, match="there are no adapters"):
        save_lora(tmp_path / "a", CONFIG, {}, SCALE)
    save_lora(tmp_path / "a", CONFIG, lora, SCALE)
    with pytest.raises(ValueError, match="exists and is not empty"):
        save_lora(tmp_path / "a", CONFIG, lora, SCALE)


def test_a_tied_embedding_is_adapted_with_its_head_or_not_at_all(tmp_path):
    lora = adapters(("embed",), config=tiny.QWEN2)
    with pytest.raises(ValueError, match="PEFT adapts an embedding apart from the head"):
        save_lora(tmp_path / "a", tiny.QWEN2, lora, SCALE)
    untied = dataclasses.replace(tiny.QWEN2, tied_head=False)
    save_lora(tmp_path / "a", untied, lora, SCALE)
    with pytest.raises(ValueError, match="PEFT adapts an embedding apart from the head"):
        load_lora(tmp_path / "a", tiny.QWEN2)


def test_what_cannot_be_saved_is_known_before_it_is_trained():
    for targets in ((".*",), ("embed",), ("layers/.*", "embed")):
        with pytest.raises(ValueError, match="PEFT adapts an embedding apart from the head"):
            check_lora(tiny.QWEN2, targets)
        check_lora(dataclasses.replace(tiny.QWEN2, tied_head=False), targets)
    check_lora(tiny.QWEN2, ("layers/.*",))
    with pytest.raises(ValueError, match="the target 'heads' is none of "):
        check_lora(tiny.QWEN2, ("heads",))


def test_earlier_adapters_are_replaced_only_on_request(saved):
    folder, _ = saved
    lora = adapters(("query", "up"))
    with pytest.raises(ValueError, match="or overwrite=True to replace an earlier save"):
        save_lora(folder, CONFIG, lora, SCALE)
    (folder.parent / "adapter.partial").mkdir()
    save_lora(folder, CONFIG, lora, SCALE, overwrite=True)
    assert {p.name for p in folder.parent.iterdir()} == {"adapter"}
    assert_equal(load_lora(folder, CONFIG)[0], lora)


def test_adapters_of_a_compiled_model_are_read(saved):
    folder, lora = saved
    path = folder / "adapter_model.safetensors"
    named = {
        k.replace("base_model.", "base_model._orig_mod.", 1): v for k, v in load_file(path).items()
    }
    save_file(named, path)
    assert_equal(load_lora(folder, CONFIG)[0], lora)
