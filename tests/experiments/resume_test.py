"""A study killed at any moment and started again ends with the bytes of one that never was."""

import os
import random
import shutil
import time

import pytest

SAME = ("results.jsonl", "trajectory.jsonl")
WITHOUT_REPORT = "tests.oracles.scripts:without_report"


def recorded_lines(workdir):
    path = workdir / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def positions(workdir):
    """Finished checkpoints, oldest first."""
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def is_saving(workdir):
    return any((workdir / "checkpoints").glob("*tmp*"))


def truncate_newest(workdir):
    """Cuts every file of the newest checkpoint in half; returns its position."""
    newest = positions(workdir)[-1]
    for path in (workdir / "checkpoints" / str(newest)).rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    return newest


def assert_same(workdir, finished):
    for name in SAME:
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    events = [
        sorted(p.name for p in (folder / "tensorboard").iterdir()) for folder in (workdir, finished)
    ]
    assert events[0] == events[1]


def test_killed_between_two_checkpoints(tmp_path, start_tiny, finished):
    workdir = tmp_path / "run"
    killed = start_tiny(workdir, patch=WITHOUT_REPORT).kill_when(
        lambda: recorded_lines(workdir) >= 30
    )
    assert killed.status == -9
    assert 30 <= recorded_lines(workdir) < recorded_lines(finished)
    ended = start_tiny(workdir, patch=WITHOUT_REPORT).wait()
    assert ended.status == 0, ended.stderr
    assert "cannot be read" not in ended.stderr
    assert_same(workdir, finished)


def test_killed_while_saving_then_the_newest_checkpoint_is_damaged(tmp_path, start_tiny, finished):
    workdir = tmp_path / "run"
    killed = start_tiny(workdir, patch="tests.oracles.scripts:killed_in_the_eighth_save").wait()
    assert killed.status == -9
    assert is_saving(workdir)
    assert positions(workdir) == [6, 7]
    damaged = truncate_newest(workdir)
    ended = start_tiny(workdir, patch=WITHOUT_REPORT).wait()
    assert ended.status == 0, ended.stderr
    assert f"checkpoint {damaged} cannot be read" in ended.stderr
    assert "going back to the one before it" in ended.sentence, ended.stderr
    assert_same(workdir, finished)


def test_an_operational_change_between_leaves_the_bytes(tmp_path, start_tiny, finished):
    """A finished study is started again with other settings: nothing is done twice."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    before = {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")}
    changes = ("--config.checkpoint_every_seconds=9", "--config.tensorboard=False")
    ended = start_tiny(workdir, *changes, patch=WITHOUT_REPORT).wait()
    assert ended.status == 0, ended.stderr
    assert ended.stdout.startswith(f"{recorded_lines(finished)} lines")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_same(workdir, finished)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_five_times_at_random_moments(tmp_path, start_tiny, finished, seed):
    """At start, in pre-training, in a save, in the report: wherever the clock says."""
    rng, workdir, began = random.Random(seed), tmp_path / "run", time.monotonic()
    assert start_tiny(tmp_path / "timed").wait().status == 0
    seconds = time.monotonic() - began
    for kill in range(5):
        until = time.monotonic() + rng.uniform(0, seconds)
        start_tiny(workdir).kill_when(lambda until=until: time.monotonic() > until)
        if kill % 2 and (workdir / "checkpoints").exists() and positions(workdir):
            truncate_newest(workdir)
    ended = start_tiny(workdir).wait()
    assert ended.status == 0, ended.stderr
    assert_same(workdir, finished)
    assert (workdir / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_block_size_and_devices_leave_every_number(tmp_path, start_tiny, finished, read_lines):
    workdir = tmp_path / "run"
    changes = ("--config.runs_per_block=4", "--config.mesh.data=0")
    # In the fifth block, of two runs: what is restored has other shapes than the first block's.
    start_tiny(workdir, *changes, patch=WITHOUT_REPORT).kill_when(
        lambda: recorded_lines(workdir) >= 34
    )
    ended = start_tiny(workdir, *changes, patch=WITHOUT_REPORT).wait()
    assert ended.status == 0, ended.stderr

    def by_run_and_step(folder):
        return {(line["run"], line["step"]): line for line in read_lines(folder / "results.jsonl")}

    assert by_run_and_step(workdir) == by_run_and_step(finished)


@pytest.mark.slow
def test_everything_damaged_starts_again(tmp_path, start_tiny, finished):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for _ in range(2):
        newest = truncate_newest(workdir)
        (workdir / "checkpoints" / str(newest)).rename(workdir / "checkpoints" / f"x{newest}")
    for path in (workdir / "checkpoints").glob("x*"):
        path.rename(path.with_name(path.name[1:]))
    ended = start_tiny(workdir, patch=WITHOUT_REPORT).wait()
    assert ended.status == 0, ended.stderr
    assert ended.stderr.count("cannot be read") == 2
    assert_same(workdir, finished)
