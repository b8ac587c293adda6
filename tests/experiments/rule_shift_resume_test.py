"""A rule-shift study killed in the middle of a run ends with the bytes of one that never was.

With the shipped base, in processes of their own.
"""

import json
import re
import shutil

import pytest

from tests.oracles.scripts import ROOT, Script, newest

pytestmark = pytest.mark.slow

TINY = {
    "arms": "('grpo', 'distilled')", "seeds": "(0,)", "iterations": "6", "rows": "16",
    "samples": "4", "minibatches": "2", "checkpoints": "(0.5, 1.0)", "answer_tokens": "8",
    "measure.hands": "8", "measure.questions": "2", "measure.kl_prompts": "8",
    "measure.turn_hands": "4", "measure.turns": "(1, 2)", "measure.turn_arms": "('grpo',)",
    "measure.pass_hands": "2", "measure.pass_samples": "4", "measure.pass_at": "(1, 4)",
    "measure.pass_arms": "('grpo',)", "mesh.data": "1", "checkpoint_every_seconds": "0.0",
    "tensorboard": "False", "learning_rates.grpo": "(3e-4,)",
    "learning_rates.distilled": "(3e-4,)",
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory, cache):
    def start(workdir, **options):
        overrides = [f"--config.{name}={value}" for name, value in TINY.items()]
        return Script(
            "gp_rule_shift.py", f"--config={ROOT / 'configs' / 'sft_memorizes_gp_l.py'}:quick",
            f"--workdir={workdir}", *overrides, folder=tmp_path_factory.mktemp("output"),
            cache=cache, patch="tests.oracles.scripts:without_report", **options,
        )  # fmt: skip

    return start


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    ended = start(workdir).wait()
    assert ended.status == 0, ended.stderr
    return workdir


def test_every_run_has_its_lines(finished):
    lines = [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]
    steps = {}
    for line in lines:
        steps.setdefault(line["arm"], []).append(line["step"])
        assert not line["diverged"]
        assert (line["step"] == 0) <= (abs(line["new/kl_base_policy_nats"]) < 1e-4)
    assert steps == {"grpo": [0, 3, 6], "distilled": [0, 3, 6]}
    final = next(line for line in lines if line["arm"] == "grpo" and line["final"])
    for name in (
        "new/success_within_2",
        "shift/rule/pass_at_4",
        "new/base_pass_at_1",
        "train/reward",
    ):
        assert final[name] is not None
    (kept,) = (finished / "policies").iterdir()
    assert re.fullmatch(r"grpo-lr0.0003-s0-[0-9a-f]{6}-6.safetensors", kept.name)


def test_killed_three_times_and_started_again(tmp_path, start, finished):
    """Before and behind a line of the first run; in the second, which needs the first's policy."""
    workdir = tmp_path / "run"
    for iterations in (2, 4, 8):
        killed = start(workdir).kill_when(lambda least=iterations: newest(workdir) >= least)
        assert killed.status == -9
        assert newest(workdir) < 12
    ended = start(workdir).wait()
    assert ended.status == 0, ended.stderr
    (kept,) = (path.name for path in (finished / "policies").iterdir())
    for name in ("results.jsonl", f"policies/{kept}"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name


def test_lines_behind_the_newest_checkpoint_are_written_again(tmp_path, start, finished):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    assert newest(workdir) < 12
    ended = start(workdir).wait()
    assert ended.status == 0, ended.stderr
    assert (workdir / "results.jsonl").read_bytes() == (finished / "results.jsonl").read_bytes()
