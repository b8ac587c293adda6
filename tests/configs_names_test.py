"""Parts of a config whose fields may have any name, as flags set them."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs.names import Names
from tests.oracles.scripts import ROOT

# ml_collections loads a config file by an old way of Python's.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def parsed(monkeypatch):
    return lambda *overrides: parse(monkeypatch, *overrides)


def parse(monkeypatch, *overrides):
    monkeypatch.setattr(sys, "argv", ["test", *overrides])  # where overrides are looked for
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", str(ROOT / "configs" / "finetune.py"), flag_values=values
    )
    values(["test", *overrides])
    return holder.value


def test_flags_add_fields_of_any_name_and_any_depth(parsed):
    config = parsed(
        "--config.prior.arc=/data/arc.jsonl", "--config.prior.mmlu=b.jsonl",
        "--config.shift.harder=c.jsonl", "--config.learning_rates.sdft=(1e-3,)",
        "--config.learning_rates.sft=(1e-4, 1e-5)", "--config.methods.grpo.clip_high=0.28",
        "--config.methods.grpo.clip_low=0.1", "--config.template_variables.enable_thinking=False",
    )  # fmt: skip
    assert config.prior.to_dict() == {"arc": "/data/arc.jsonl", "mmlu": "b.jsonl"}
    assert config.shift.to_dict() == {"harder": "c.jsonl"}
    rates = config.learning_rates.to_dict()
    assert (rates["sdft"], rates["sft"]) == ((1e-3,), (1e-4, 1e-5))
    assert config.methods.to_dict() == {"grpo": {"clip_high": 0.28, "clip_low": 0.1}}
    assert config.template_variables.to_dict() == {"enable_thinking": False}


def test_to_look_is_not_to_add():
    names = Names({"known": 1})
    assert len(names.unknown) == 0
    assert "unknown" not in names
    names.unknown.deep.x = 3
    assert names.to_dict() == {"known": 1, "unknown": {"deep": {"x": 3}}}


def test_elsewhere_a_misspelt_field_is_refused(parsed):
    with pytest.raises((AttributeError, flags.Error), match="sampels"):
        parsed("--config.sampels=3")
