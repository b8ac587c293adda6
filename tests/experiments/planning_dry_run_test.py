"""A dry run compiles every program of every arm and bucket, and says what does not fit."""

import types
from typing import Any

import jax
import pytest

from configs.finetune import get_config
from experiments.planning import dry_run as dry
from experiments.planning.costs import Needs
from experiments.planning.planning import countable_twin, plan, policy_of, shape_of
from rlrazor.runtime.hardware import Accelerator
from rlrazor.runtime.mesh import make_mesh
from rlrazor.studies.calls import Call
from tests.oracles import tiny_models

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save(folder)
    config: Any = get_config()
    config.arms = ("sft", "grpo_kl")
    config.update(
        model=str(folder), row_buckets=(64, 96), prompt_buckets=(96,), answer_tokens=4, rows=4,
        prompts=2, samples=2, vocabulary_chunk=32, compute_dtype="float32", test_at_once=2,
    )  # fmt: skip
    config.mesh.fsdp = 1
    return config


@pytest.fixture
def nothing_fits(monkeypatch):
    monkeypatch.setattr(dry, "memory_of", lambda device: 1000.0)


def test_a_dry_run_names_every_program_and_what_does_not_fit(config, capsys, nothing_fits):
    dry.dry_run(config)
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["sft"] * 5 + ["grpo_kl"] * 2
    programs = [line.split(": ")[1] for line in lines]
    assert programs == [
        "learn for 4 rows of 64 tokens",
        "learn for 4 rows of 96 tokens",
        "answer greedily for 2 rows of 100 tokens",
        "answer for 2 rows of 100 tokens",
        "measure for 2 rows of 100 tokens",
        "sample for 4 rows of 100 tokens",
        "learn for 4 rows of 100 tokens",
    ]
    assert all("compiled in" in line and "DOES NOT FIT" in line for line in lines)
    assert "GiB a device more than there are; lower config.rows_at_once" in last


def test_a_device_that_says_nothing_has_no_limit():
    silent = types.SimpleNamespace(memory_stats=lambda: None)
    assert dry.memory_of(silent) == float("inf")
    limited = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 7})
    assert dry.memory_of(limited) == 7
    call = Call("learn", None, (), (), 4, 96)
    gib = 2.0**30
    line = dry.described_call("sft", call, Needs({"base": gib}, gib, float("inf")), 1.0)
    assert line.endswith("compiled in 1.0 s, 2.00 GiB a device")
    line = dry.described_call("sft", call, Needs({"base": gib}, gib, 3 * gib), 1.0)
    assert line.endswith("2.00 GiB a device of 3.00; 1.00 to spare")


def test_a_plan_has_the_base_beside_every_program_of_every_arm(config):
    chip = Accelerator("toy", 1e9, 2.0**30, 1e9, 1e9)
    arms = plan(config, shape_of(config.model), jax.devices()[:1], chip)
    assert [*arms] == ["sft", "grpo_kl"]
    assert [*arms["sft"]] == ["learn", "answer greedily", "answer", "measure"]
    assert [*arms["grpo_kl"]] == ["sample", "learn", "answer greedily", "answer", "measure"]
    for costs in arms.values():
        for name, cost in costs.items():
            named = cost.needs.named
            assert named["base"] == named["parameters"] > 0
            assert named["optimizer"] >= 2 * named["parameters"]
            assert ("cache" in named) == (name not in ("learn", "measure"))
            assert cost.flops > 0
            assert cost.needs.working > 0
            assert cost.time is not None
    sft, grpo = (arms[name]["learn"].flops for name in arms)
    assert grpo > sft  # the base reads the rows too


def test_operations_are_counted_of_plain_products(config):
    mesh = make_mesh(data=1)
    shape = shape_of(config.model)
    plain = policy_of(config, shape, mesh)
    assert countable_twin(plain) is plain
    config.attention, kept = "dot_product", config.attention
    twin = countable_twin(policy_of(config, shape, mesh))
    config.attention = kept
    assert twin.model.config.attention == "einsum"
    assert not twin.replicated


def test_a_model_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match=r"config\.model='nobody/nothing' is no folder"):
        shape_of("nobody/nothing")
