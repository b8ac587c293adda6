"""A study as its config builds it: on a tiny folder, with files and a judge of the user's own."""

import json
import math
import sys

import pytest

from configs.finetune import get_config
from experiments.finetuning import settings
from experiments.finetuning.run import run_finetuning, summary
from rlrazor.lines import check_line
from rlrazor.runtime.distributed import ALONE
from rlrazor.runtime.workdir import open_workdir
from tests.oracles import tiny_chats, tiny_models

pytestmark = pytest.mark.usefixtures("quick_compiles")

JUDGE = """
from rlrazor import Verdict

SEEN = []

def graded(prompts, answers, truths):
    SEEN.append(list(prompts))
    return [Verdict(0.25 + len(answer) % 3 / 4, True) for answer in answers]
"""
TINY = {
    "prompt_buckets": (96,), "row_buckets": (96,), "answer_tokens": 6, "rows": 4, "prompts": 2,
    "samples": 2, "rows_at_once": 4, "steps": 2, "matched_flops": False, "checkpoints": (1.0,),
    "test_examples": 4, "test_at_once": 4, "vocabulary_chunk": 32, "compute_dtype": "float32",
    "remat": "none", "warmup_steps": 1, "tensorboard": False, "save_model": False, "mesh.fsdp": 1,
}  # fmt: skip
ENDLESS = 1e38  # a learning rate after which no weight is a number


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny_models.save(folder / "model")
    tiny_models.sums(folder / "train.jsonl")
    for name, count in {"test": 12, "harder": 8, "arc": 5}.items():
        tiny_models.sums(folder / f"{name}.jsonl", count=count)
    (folder / "mine.py").write_text(JUDGE)
    return folder


def tiny(files, mode="both", **changes):
    """The config with flags as a command line gives them."""
    config = get_config(mode)
    given = {
        "model": str(files / "model"), "data.path": str(files / "train.jsonl"),
        "data.test_path": str(files / "test.jsonl"), **TINY, **changes,
    }  # fmt: skip
    for name, value in given.items():
        *place, last = name.split(".")
        part = config
        for field in place:
            part = part[field]
        with part.ignore_type():
            part[last] = value
    return config


@pytest.fixture(scope="module")
def base(files):
    return settings.load_base(tiny(files))


def studied(files, base, mode="both", **changes):
    config = tiny(files, mode, **changes)
    settings.check(config)
    settings.check_files(config)
    return settings.make_study(config, base, settings.world_of(config, base))


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """A run of four: SFT at two rates, GRPO from two seeds; and what was said."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = tiny(
        files,
        **{
            "arms": ("sft", "grpo"), "seeds": (0, 1), "judge": "mine:graded",
            "learning_rates.sft": (1e-3, ENDLESS), "learning_rates.grpo": (1e-3,),
            "shift.harder": str(files / "harder.jsonl"), "prior.arc": str(files / "arc.jsonl"),
        },
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        run_finetuning(config, str(workdir), ALONE)
    yield workdir
    sys.modules.pop("mine")


@pytest.fixture(scope="module")
def lines(finished):
    return [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]


def test_every_run_is_measured_on_both_axes(lines):
    for line in lines:
        check_line(line)
        for name in ("new", "shift/harder", "prior", "prior/arc"):
            assert {f"{name}/accuracy", f"{name}/base_accuracy"} <= set(line), name
        assert "prior/kl_base_policy_nats" in line
        assert "new/kl_policy_base_nats" in line
    assert len({line["run"] for line in lines}) == 6
    grpo = [line for line in lines if line["arm"] == "grpo" and line["final"]]
    assert [line["seed"] for line in grpo] == [0, 1]
    for line in grpo:
        assert 0 < line["train/reward"] < 1
        assert line["new/kl_base_policy_nats"] > 1e-6
        assert not line["diverged"]


def test_what_a_limit_truncated_is_not_right(lines):
    """The judge takes any answer for right; none that was truncated counts."""
    for line in lines:
        if not line["diverged"]:
            for place in ("new", "shift/harder", "prior/arc"):
                finished = 1 - line[f"{place}/answer_truncated"]
                assert line[f"{place}/accuracy"] == pytest.approx(finished)


def test_a_run_that_diverges_ends_and_says_so(lines, finished):
    ill = [line for line in lines if line["hyperparameters"]["learning_rate"] == ENDLESS]
    assert [line["diverged"] for line in ill] == [False, True] * 2
    assert ill[1]["new/kl_base_policy_nats"] is None
    said = summary(finished)
    assert f"{ill[1]['run']}: diverged" in said
