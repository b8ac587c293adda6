"""Every mistake ends with status 2 and one sentence, and what was there stays intact."""

import shutil
import subprocess
import sys

import pytest

from experiments import cli
from tests.oracles.scripts import ROOT, Script

WITHOUT_REPORT = "tests.oracles.scripts:without_report"
# A rate at which AdamW's weight decay multiplies the weights by about -8 a step: the first
# checkpoint of a run is finite, the second is not.
LATE = ("--config.sweep.learning_rates.low=900.0", "--config.sweep.learning_rates.high=900.0")


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_refused(ended, *parts):
    assert ended.status == 2, ended
    assert ended.stdout == ""
    assert ended.sentence.startswith("error: ")
    assert "Traceback" not in ended.stderr
    for part in parts:
        assert part in ended.sentence


# Found while reading the command line: no work, no folder.
MISTYPED = {
    "field": (["--config.lerning_rate=1"], "the config has no field 'lerning_rate'"),
    "similar": (["--config.sweep.seds=1"], "has no field 'seds'; Did you mean \"seeds\""),
    "type": (["--config.batch_size=abc"], "--config.batch_size=abc: invalid literal for int()"),
    "nested type": (["--config.mesh.data=1.5"], "--config.mesh.data=1.5: invalid literal"),
    "group": (["--config.sweep=3"], "Failed to parse '3' as a ConfigDict"),
    "flag": (["--wordir=x"], "Unknown command line flag 'wordir'. Did you mean: workdir"),
    "positional": (["stray"], "'stray' is not a flag; flags look like --name=value"),
    "mode": (
        [f"--config={ROOT}/configs/razor_digits.py:fast"],
        "mode='fast' must be full or quick",
    ),
    "file": (["--config=nowhere.py"], "No such file or directory: 'nowhere.py'"),
}


@pytest.mark.parametrize("case", MISTYPED)
def test_a_mistyped_command_does_nothing(tmp_path, start_tiny, case):
    arguments, sentence = MISTYPED[case]
    ended = start_tiny(tmp_path / "run", *arguments).wait()
    assert_refused(ended, sentence)
    assert not (tmp_path / "run").exists()


def test_a_misspelt_override_of_the_default_config(tmp_path):
    """Without --config, overrides are read when the flag is defined, before anything runs."""
    for script in ("quickstart.py", "razor_parity.py"):
        ended = Script(script, "--config.lerning_rate=1", folder=tmp_path, cache=None).wait()
        assert_refused(ended, "the config has no field 'lerning_rate'")


def test_razor_parity_needs_a_workdir(tmp_path):
    ended = Script("razor_parity.py", folder=tmp_path, cache=None).wait()
    assert_refused(ended, "--workdir")


# Found before any work: the folder may be used again with the mistake mended.
IMPOSSIBLE = {
    "mesh": (["--config.mesh.data=64"], "needs 64 devices"),
    "arm": (["--config.arms=sft1,ppo"], "unknown arm 'sft1,ppo'; allowed: dft"),
    "dataset": (["--config.dataset=cifar"], "config.dataset='cifar' must be 'mnist' or 'digits'"),
    "no run": (["--config.sweep.seeds=0"], "the config plans no run"),
    "rates": (["--config.sweep.learning_rates.high=nan"], "0 < low <= high"),
    "batch": (["--config.batch_size=100000"], "lower it or config.batch_size=100000"),
    "no batch": (["--config.batch_size=0"], "config.batch_size=0 must be at least 1"),
    "images": (["--config.test_examples=501"], "config.test_examples=501 must be at most the 500"),
    "divergence": (["--config.on_divergence=stpo"], "must be 'stop' or 'mark'"),
    "base": (["--config.base.learning_rate=1e30"], "pre-training diverged at config.base.learn"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_config_does_not_spoil_the_folder(tmp_path, start_tiny, case):
    arguments, sentence = IMPOSSIBLE[case]
    ended = start_tiny(tmp_path / "run", *arguments).wait()
    assert_refused(ended, sentence)
    left = snapshot(tmp_path / "run")
    assert set(left) <= {".lock", "run.json", "results.jsonl"}
    assert not left.get("results.jsonl")
    again = start_tiny(tmp_path / "run", "--config.mesh.data=65").wait()
    assert_refused(again, "needs 65 devices")  # the next mistake, not "made with another config"


def test_missing_data_names_the_command_that_gets_it(tmp_path, start_tiny):
    empty = tmp_path / "data"
    ended = start_tiny(
        tmp_path / "run", "--config.dataset=mnist", f"--config.data_dir={empty}"
    ).wait()
    assert_refused(ended, f"python experiments/prepare_data.py --data_dir={empty}")


def test_a_workdir_of_another_config_stays_intact(tmp_path, start_tiny, finished):
    shutil.copytree(finished, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    ended = start_tiny(tmp_path / "run", "--config.batch_size=16").wait()
    assert_refused(ended, "made with another config: batch_size was 32, now 16")
    assert snapshot(tmp_path / "run") == before


def test_somebody_elses_folder_stays_intact(tmp_path, start_tiny):
    (tmp_path / "thesis.tex").write_text("years of work")
    ended = start_tiny(tmp_path).wait()
    assert_refused(ended, "holds files that are not a run of ours (thesis.tex)")
    assert snapshot(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_workdir_that_cannot_be_written(tmp_path, start_tiny):
    (tmp_path / "file").touch()
    ended = start_tiny(tmp_path / "file" / "run").wait()
    assert_refused(ended, "cannot be written (Not a directory); choose a folder of your own")


def test_results_cut_from_outside_are_not_papered_over(tmp_path, start_tiny, finished):
    shutil.copytree(finished, tmp_path / "run")
    with (tmp_path / "run" / "results.jsonl").open("r+b") as file:
        file.truncate(1000)
    before = snapshot(tmp_path / "run")
    ended = start_tiny(tmp_path / "run", patch=WITHOUT_REPORT).wait()
    assert_refused(ended, "has 1000 bytes but its checkpoint remembers", "changed from outside")
    assert snapshot(tmp_path / "run") == before


def test_a_diverging_run_stops_and_keeps_earlier_lines(tmp_path, start_tiny, read_lines):
    for warnings in (1, 0):  # the same command meets the same end, and doubles no line
        ended = start_tiny(tmp_path / "run", *LATE, patch=WITHOUT_REPORT).wait()
        assert ended.status == 2
        *warned, refused = ended.sentences
        assert len(warned) == warnings
        assert all("marked as diverged, by step 20: sft1-lr900-" in text for text in warned)
        assert "met a loss or weight that is not finite by step 40; every earlier" in refused
        assert "config.on_divergence='mark'" in refused
        lines = read_lines(tmp_path / "run" / "results.jsonl")
        assert [line["step"] for line in lines] == [20] * 6


def test_a_diverging_run_is_marked_and_the_study_goes_on(tmp_path, start_tiny, read_lines):
    ended = start_tiny(
        tmp_path / "run", *LATE, "--config.on_divergence=mark", patch=WITHOUT_REPORT
    ).wait()
    assert ended.status == 0, ended.stderr
    lines = read_lines(tmp_path / "run" / "results.jsonl")
    assert len(lines) == 108
    assert all(line["diverged"] for line in lines)
    for line in lines:
        assert line["new/base_accuracy"] is not None
        assert line["new/activation_l2"] is None
    losses = [(line["step"], line["train/loss"] is None) for line in lines]
    assert {step for step, lost in losses if not lost} == {20}
    names = {line["run"] for line in lines}
    assert sum(name in ended.stderr for name in names) == len(names) == 36


@pytest.mark.parametrize("disk", ["full_at_the_tenth_file", "full_in_a_save"])
def test_a_full_disk_says_so_and_resumes(tmp_path, start_tiny, finished, disk):
    ended = start_tiny(tmp_path / "run", patch=f"tests.oracles.scripts:{disk}").wait()
    assert_refused(ended, "the disk is full; what was recorded is intact: free some space")
    recorded = (tmp_path / "run" / "results.jsonl").read_bytes()
    assert len(recorded) > 0
    assert (finished / "results.jsonl").read_bytes().startswith(recorded)
    if disk == "full_in_a_save":
        return  # from here on like a kill in a save, see resume_test
    ended = start_tiny(tmp_path / "run", patch=WITHOUT_REPORT).wait()
    assert ended.status == 0, ended.stderr
    for name in ("results.jsonl", "trajectory.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
def test_a_report_of_diverged_runs(tmp_path, start_tiny):
    ended = start_tiny(tmp_path / "run", *LATE, "--config.on_divergence=mark").wait()
    assert ended.status == 0, ended.stderr


def test_interrupting_says_how_to_go_on(tmp_path, start_tiny):
    ended = start_tiny(tmp_path / "run", patch="tests.oracles.scripts:interrupted").wait()
    assert ended.status == 130
    assert ended.sentence == "interrupted; give the same command again to resume"


def test_too_little_memory_says_what_to_lower(tmp_path):
    program = (
        "from experiments import cli; import jax.numpy as jnp; "
        "cli.run(lambda argv: jnp.ones(2**41).block_until_ready())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("error: out of memory (8796093022208 bytes asked for): lower")
    for name in ("rows_at_once", "vocabulary_chunk", "test_at_once", "answer_tokens", "plan.py"):
        assert name in sentence


def test_an_error_of_ours_is_not_called_a_lack_of_memory():
    assert cli.out_of_memory(RuntimeError("INTERNAL: no such thing")) is None
    refused = "RESOURCE_EXHAUSTED: Used 20.5G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    assert "(20.5G asked for)" in (cli.out_of_memory(RuntimeError(refused)) or "")
    refused = (
        "RESOURCE_EXHAUSTED: required for HLO temporaries (17.1G) exceeds available HBM (15G)."
    )
    assert "(17.1G asked for)" in (cli.out_of_memory(RuntimeError(refused)) or "")
