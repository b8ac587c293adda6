"""Fine-tuning as a user starts it: a tiny model, killed, stopped, on two hosts, mistaken."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from rlrazor.analysis.results import load_results
from rlrazor.models.lora import merge
from rlrazor.models.lora_files import load_lora
from rlrazor.models.pretrained import load_pretrained
from rlrazor.runtime.distributed import STOPPED
from tests.oracles import tiny_models
from tests.oracles.scripts import ROOT, Script, newest

pytestmark = pytest.mark.slow

TINY = {
    "prompt_buckets": "(96,)", "row_buckets": "(96,128)", "answer_tokens": "48", "rows": "4",
    "prompts": "2", "samples": "4", "rows_at_once": "4", "steps": "6", "checkpoints": "(.5,1.)",
    "test_examples": "4", "test_at_once": "4", "vocabulary_chunk": "32", "remat": "none",
    "compute_dtype": "float32", "learning_rates.sft": "1e-3", "learning_rates.grpo": "1e-3",
    "warmup_steps": "1", "checkpoint_every_seconds": "0", "tensorboard": "False",
    "temperature": "2.0", "judge": "mine:graded",
}  # fmt: skip
# Of a reward that a random model earns, so that there is something to learn from.
JUDGE = """
from rlrazor import Verdict

def graded(prompts, answers, truths):
    return [Verdict(len(answer) % 5 / 5, bool(answer)) for answer in answers]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny_models.save(folder / "model")
    tiny_models.sums(folder / "train.jsonl")
    tiny_models.sums(folder / "test.jsonl", count=6)
    (folder / "mine.py").write_text(JUDGE)
    return folder


def flags(files, workdir, mode, **changes):
    given = {
        "model": files / "model", "data.path": files / "train.jsonl",
        "data.test_path": files / "test.jsonl", "prior.gsm8k": files / "test.jsonl",
        **TINY, **changes,
    }  # fmt: skip
    config = f"--config={ROOT / 'configs' / 'finetune.py'}:{mode}"
    overrides = [f"--config.{name}={value}" for name, value in given.items()]
    return [config, f"--workdir={workdir}", *overrides]


@pytest.fixture(scope="module")
def start(files, tmp_path_factory, cache):
    def start(workdir, mode="grpo", patch="", **changes):
        with pytest.MonkeyPatch.context() as here:
            here.chdir(files)  # where the judge lies
            return Script(
                "finetune.py", *flags(files, workdir, mode, **changes),
                folder=tmp_path_factory.mktemp("output"), cache=cache, patch=patch,
            )  # fmt: skip

    return start


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    ended = start(workdir).wait()
    assert ended.status == 0, ended.stderr
    return workdir


def same(first, second):
    for name in ("results.jsonl", "model/model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_run_measures_both_axes_and_leaves_a_model(finished, files):
    results = load_results(finished / "results.jsonl")
    assert results["step"].tolist() == [0, 3, 6]
    assert results["final"].tolist() == [False, False, True]
    assert results["new/kl_base_policy_nats"][0] == pytest.approx(0, abs=1e-6)
    final = json.loads((finished / "results.jsonl").read_text().splitlines()[-1])
    for name in ("prior/gsm8k/accuracy", "new/kl_policy_base_nats", "train/reward", "new/count"):
        assert np.isfinite(final[name]), name
    assert final["train/reward"] > 0
    assert not [name for name in final if "second" in name]
    _, params, _ = load_pretrained(finished / "model")
    _, base, _ = load_pretrained(files / "model")
    assert jax.tree.structure(params) == jax.tree.structure(base)
    assert (finished / "model" / "tokenizer.json").exists()


@pytest.mark.parametrize("step", [1, 4])
def test_killed_and_started_again(tmp_path, start, finished, step):
    workdir = tmp_path / "run"
    killed = start(workdir).kill_when(lambda: newest(workdir) >= step)
    assert killed.status == -signal.SIGKILL
    ended = start(workdir).wait()
    assert ended.status == 0, ended.stderr
    same(workdir, finished)


def test_imitation_learns_and_is_traced(tmp_path, start):
    changes = {"steps": "30", "checkpoints": "(1.,)", "profile": "2", "tensorboard": "True"}
    ended = start(tmp_path / "run", "sft", **changes).wait()
    assert ended.status == 0, ended.stderr
    first, last = map(json.loads, (tmp_path / "run" / "results.jsonl").read_text().splitlines())
    assert last["train/loss"] < 8
    assert last["new/kl_base_policy_nats"] > first["new/kl_base_policy_nats"]
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "run" / "tensorboard").rglob("events*"))


def killed_between_the_folders() -> None:
    """Ends when the adapters lie there, and before the merged model does."""
    from rlrazor.api import model

    def dies(*args, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    model.save_pretrained = dies


def test_adapters_are_saved_alone_and_merged_though_killed_in_between(tmp_path, start, files):
    changes = {"steps": "2", "checkpoints": "(1.,)", "lora.rank": "2"}
    between = "tests.experiments.finetune_test:killed_between_the_folders"
    killed = start(tmp_path / "run", patch=between, **changes).wait()
    assert killed.status == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "run" / "adapter").exists()
    assert not (tmp_path / "run" / "model").exists()
    ended = start(tmp_path / "run", **changes).wait()
    assert ended.status == 0, ended.stderr
    shape, base, _ = load_pretrained(files / "model")
    adapters, scale = load_lora(tmp_path / "run" / "adapter", shape)
    _, merged, _ = load_pretrained(tmp_path / "run" / "model")
    chex.assert_trees_all_close(merge(base, adapters, scale), merged, atol=1e-6)


def test_a_dry_run_compiles_and_stops(tmp_path, start):
    ended = start(tmp_path / "run", "sft", dry_run="True").wait()
    assert ended.status == 0, ended.stderr
    assert ended.stdout.count("compiled in") == 5
    assert not (tmp_path / "run" / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("sft", {"data.path": "nowhere.jsonl"}, "config.data.path='nowhere.jsonl' is no file"),
        ("sft", {"data.path": ""}, "config.data.path is empty"),
        ("grpo", {"model": "/nowhere/at/all"}, "/nowhere/at/all"),
        ("grpo", {"samples": "0"}, "config.samples=0 must be above 0"),
        ("sft", {"row_buckets": "(8,)"}, "none of 24 examples fits prompts of 96 and rows of 8"),
        ("sft", {"prior.my-task": "a.jsonl"}, "'my-task' cannot be a name in a config"),
        ("sft", {"harness.tasks": "('arc',)", "harness.data": "."}, "local task 'arc' must be"),
        ("sft", {"prior.class": "a.jsonl"}, "'class' cannot be a name in a config"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, start, mode, changes, message):
    ended = start(tmp_path / "run", mode, **changes).wait()
    assert ended.status == 2
    assert message in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


# Several processes


def together(files, workdir, count, *, devices, **changes):
    """Starts `count` processes of one run, each with so many CPU devices."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"--coordinator=127.0.0.1:{server.getsockname()[1]}"
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(ROOT / "experiments" / "finetune.py")]
    command += flags(files, workdir, "grpo", **changes)
    processes = []
    for number in range(count):
        which = [coordinator, f"--processes={count}", f"--process={number}"] if count > 1 else []
        with (workdir.parent / f"{workdir.name}-{number}.txt").open("w") as output:
            process = subprocess.Popen(
                [*command, *which], env=environment, stdout=output, stderr=output, cwd=files
            )
        processes.append(process)
    return processes


def test_two_processes_do_the_work_of_one(tmp_path, files):
    """And what they saved, one process with fewer devices takes up.

    The first of them drives the harness, the other computes beside it.
    """
    workdir, benchmarks = tmp_path / "two", tmp_path / "data" / "mmlu" / "test"
    benchmarks.mkdir(parents=True)
    lines = [
        {"question": f"{n} + {n % 3}?", "choices": [*"123", f"{n}"], "answer": n % 4}
        for n in range(6)
    ]
    (benchmarks / "sums.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    whole = {
        "steps": "40", "checkpoints": "(1.,)", "harness.tasks": "('mmlu_cloze',)",
        "harness.data": str(tmp_path / "data"), "harness.rows_at_once": "2",
    }  # fmt: skip
    stopped = together(files, workdir, 2, devices=2, **whole)
    while newest(workdir) < 2 and all(p.poll() is None for p in stopped):
        time.sleep(0.1)
    stopped[0].send_signal(signal.SIGTERM)
    said = (tmp_path / "two-0.txt").read_text()
    assert [p.wait(120) for p in stopped] == [STOPPED, STOPPED], said
    at = newest(workdir)
    assert 2 <= at < 40
    (alone,) = together(files, workdir, 1, devices=1, **whole)
    assert alone.wait(300) == 0
    (other,) = together(files, tmp_path / "one", 1, devices=4, **whole)
    assert other.wait(300) == 0
    two, one = (
        json.loads((folder / "results.jsonl").read_text().splitlines()[-1])
        for folder in (workdir, tmp_path / "one")
    )
    for name in (
        "train/loss", "train/reward", "new/kl_base_policy_nats", "train/answer_tokens",
        "prior/mmlu_cloze/gold_nats",
    ):  # fmt: skip
        assert two[name] == pytest.approx(one[name], rel=0.05, abs=1e-3), name
