"""The shortest honest program, on a tiny model: what README shows, from the wheel too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rlrazor as rr
from tests.oracles import tiny_models

pytestmark = pytest.mark.usefixtures("quick_compiles")

ROOT = Path(__file__).parents[1]
SMALL = {"prompt_buckets": (96,), "row_buckets": (128,), "test_examples": 4, "at_once": 4}
# `rr.load` and `rr.questions` are told sizes because the model is tiny; the rest is README's.
PROGRAM = """
import rlrazor as rr

def mine(prompts, answers, truths):
    return [rr.Verdict(-abs(len(a) - len(t)) / 20, a == t)
            for a, t in zip(answers, truths, strict=True)]

base = rr.load("model", answer_tokens=6, compute_dtype="float32", mesh=None)
world = rr.questions(base, train="train.jsonl", new="test.jsonl", shifts={"rule": "other.jsonl"},
                     prior={"mmlu": "mmlu.jsonl"}, judge=mine, sizes=rr.Asked(**SMALL))
settings = rr.Settings(sizes=rr.Sizes(rows=4, samples=2, rows_at_once=4), checkpoints=(1.0,))
study = rr.LanguageStudy(base, world, arms=[rr.methods.sft, rr.methods.grpo],
                         learning_rates={"sft": [1e-3], "grpo": [1e-3]}, seeds=range(2), steps=2,
                         settings=settings)
rr.report(rr.drive(study, "runs/mine"), "runs/mine")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny_models.save(folder / "model")
    for name, count in {"train": 24, "test": 6, "other": 5, "mmlu": 4}.items():
        tiny_models.sums(folder / f"{name}.jsonl", count=count)
    return folder


def check_results(folder):
    lines = [json.loads(x) for x in (folder / "results.jsonl").read_text().splitlines()]
    assert {line["label"] for line in lines} == {"SFT", "GRPO"}
    assert len({line["run"] for line in lines}) == 4
    finals = [line for line in lines if line["final"]]
    assert len(finals) == 4
    for line in lines:
        for place in ("new", "shift/rule", "prior", "prior/mmlu"):
            assert 0 <= line[f"{place}/accuracy"] <= 1
            assert 0 <= line[f"{place}/base_accuracy"] <= 1
        assert not line["diverged"]
        assert (line["new/kl_base_policy_nats"] > 1e-6) == (line["step"] > 0)
        assert line["prior/kl_base_policy_nats"] >= -1e-6
    graded = {line["new/reward"] for line in lines}
    assert any(-1 < reward < 0 for reward in graded)  # truncated answers earn no praise, but blame
    assert "GRPO" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_the_shortest_program(files, monkeypatch):
    monkeypatch.chdir(files)
    exec(compile(PROGRAM, "program.py", "exec"), {"SMALL": SMALL})
    check_results(files / "runs" / "mine")


@pytest.mark.slow
def test_it_runs_from_the_wheel_where_no_experiments_are(files, tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *wheel], check=True, capture_output=True)
    (built,) = tmp_path.glob("rlrazor-*.whl")
    installed = tmp_path / "installed"
    into = ["install", "--no-deps", "--target", str(installed), str(built)]
    subprocess.run([*pip, *into], check=True, capture_output=True)
    assert {path.name for path in installed.iterdir()} == {
        "rlrazor",
        built.name[:13] + ".dist-info",
    }
    program = tmp_path / "program.py"
    # An editable install of this environment would find these beside the repository.
    alone = "import sys; sys.modules |= dict.fromkeys(('experiments', 'configs', 'tests'))"
    last = f"assert rr.__file__.startswith({str(installed)!r})"
    moved = PROGRAM.replace("runs/mine", "runs/wheel")
    program.write_text(f"{alone}\nSMALL = {SMALL!r}\n{moved}\n{last}\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    ended = subprocess.run(
        [sys.executable, str(program)], cwd=files, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    check_results(files / "runs" / "wheel")


def test_every_name_behind_the_door_is_there():
    for name in dir(rr):
        assert getattr(rr, name) is not None
    with pytest.raises(AttributeError, match=r"rlrazor has no 'lode'; it has .*load"):
        rr.lode  # noqa: B018
    loaded = "import rlrazor, sys; print('jax' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"
