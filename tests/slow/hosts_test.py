"""Runs of two real processes: one job, ended in every way, and started again.

Each test starts tests/oracles/host_job.py, with two CPU devices a process and Gloo between them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rlrazor.runtime.checkpoint import DIGEST
from rlrazor.runtime.distributed import STOPPED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOST_AFTER = 5  # seconds
SLACK = 10  # seconds, for a busy machine


class Process:
    """A process of the job, with what it says kept in files."""

    def __init__(self, folder, flags):
        folder.mkdir(parents=True)
        self._outputs = folder / "stdout", folder / "stderr"
        with self._outputs[0].open("w") as stdout, self._outputs[1].open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "oracles" / "host_job.py"), *flags],
                stdout=stdout,
                stderr=stderr,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )

    @property
    def stdout(self):
        return self._outputs[0].read_text()

    @property
    def stderr(self):
        return self._outputs[1].read_text()

    def send(self, number):
        self._process.send_signal(number)

    def status(self, seconds=120):
        """Waits for the end; negative: the signal that brought it."""
        try:
            return self._process.wait(seconds)
        finally:
            self._process.kill()

    def done(self):
        status = self.status()
        assert status == 0, self.stderr
        return self

    def last_sentence(self):
        """What stands last on stderr, a moment after the process has ended."""
        wait_until(lambda: self.stderr.rstrip().endswith("newest checkpoint"), seconds=10)
        return self.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Processes with flags of their own; none outlives the tests."""
    started = []

    def start_all(*flags):
        folder = tmp_path_factory.mktemp("processes")
        processes = [Process(folder / str(i), mine) for i, mine in enumerate(flags)]
        started.extend(processes)
        return processes

    yield start_all
    for process in started:
        process.send(signal.SIGKILL)
        process.status()


@pytest.fixture(scope="module")
def start_alone(start):
    def start_one(workdir, devices, *extra):
        (process,) = start((f"--workdir={workdir}", f"--devices={devices}", *extra))
        return process

    return start_one


@pytest.fixture(scope="module")
def start_pair(start):
    """Two processes of two devices each."""

    def start_two(*extra):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = (
            f"--coordinator=127.0.0.1:{port}", "--processes=2",
            f"--lost_after_seconds={LOST_AFTER}", *extra,
        )  # fmt: skip
        return start(*((*flags, f"--process={i}") for i in range(2)))

    return start_two


@pytest.fixture(scope="module")
def finished(tmp_path_factory, start_pair):
    """A pair's run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    for process in start_pair(f"--workdir={workdir}"):
        process.done()
    return workdir


def lines(workdir):
    return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def recorded(workdir):
    path = workdir / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def checkpoints(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def wait_until(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def assert_resumes(workdir, finished, start_pair):
    """The same command ends with the bytes of a run that nobody disturbed."""
    newest = checkpoints(workdir)[-1]
    for process in start_pair(f"--workdir={workdir}"):
        assert f"begins at {newest} " in process.done().stdout
        assert "cannot be read" not in process.stderr
    assert (workdir / "results.jsonl").read_bytes() == (finished / "results.jsonl").read_bytes()


def test_losses_are_those_of_one_process_with_all_devices(tmp_path, finished, start_alone):
    """Not to the bit: Gloo adds the devices' gradients in another order than one process does."""
    workdir = tmp_path / "run"
    start_alone(workdir, 4).done()
    for ours, theirs in zip(lines(finished), lines(workdir), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("train/loss", "train/gradient_norm"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)


def test_a_process_feeds_the_rows_that_its_devices_hold(start_pair):
    fed = [
        [line.split()[1:] for line in process.done().stdout.splitlines() if "feeds" in line]
        for process in start_pair()
    ]
    low, high, all_of_them = "0123", "4567", "01234567"
    assert ["".join(rows) for rows in fed[0]] == [low, low, all_of_them, all_of_them, "0145"]
    assert ["".join(rows) for rows in fed[1]] == [high, high, all_of_them, all_of_them, "2367"]


def test_only_the_first_process_writes_and_a_late_report_is_waited_for(tmp_path, start_pair):
    workdir = tmp_path / "run"
    pair = start_pair(f"--workdir={workdir}", "--steps=4", f"--report_seconds={LOST_AFTER + 13}")
    assert [process.status() for process in pair] == [0, 0]
    assert [line["step"] for line in lines(workdir)] == [1, 2, 3, 4]
    assert len(list((workdir / "tensorboard" / "tiny").glob("events.*"))) == 1


def test_a_folder_that_is_in_use_is_refused_once_and_ends_both(tmp_path, start_pair):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "thesis.tex").touch()
    pair = start_pair(f"--workdir={workdir}")
    assert pair[0].status() != 0
    assert pair[1].status() != 0
    assert "holds files that are not a run of ours" in pair[0].stderr
    assert [p.name for p in workdir.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("receivers", [(0,), (1,), (0, 1)], ids=str)
def test_sigterm_saves_at_one_step_and_the_run_resumes(receivers, tmp_path, finished, start_pair):
    workdir = tmp_path / "run"
    pair = start_pair(f"--workdir={workdir}", "--step_seconds=0.6", "--save_every=1000")
    wait_until(lambda: recorded(workdir) >= 3)
    began = time.monotonic()
    for process in receivers:
        pair[process].send(signal.SIGTERM)
    status = [process.status() for process in pair]
    print(f"ended {time.monotonic() - began:.1f} s after the signal")
    assert status == [STOPPED, STOPPED], pair[0].stderr + pair[1].stderr
    (saved,) = checkpoints(workdir)
    assert saved == recorded(workdir) < 12
    said = f"stopped by SIGTERM; all is saved up to {saved}: give the same command again to resume"
    assert said in pair[0].stderr
    assert "stopped" not in pair[1].stderr
    assert_resumes(workdir, finished, start_pair)


def is_saving(workdir):
    return any((workdir / "checkpoints").glob("*tmp*"))


def test_killed_while_saving_then_the_newest_checkpoint_is_damaged(tmp_path, finished, start_pair):
    workdir = tmp_path / "run"
    pair = start_pair(f"--workdir={workdir}", "--step_seconds=0.1", "--save_every=0")
    wait_until(lambda: recorded(workdir) >= 6 and is_saving(workdir))
    pair[0].send(signal.SIGKILL)
    assert pair[1].status(LOST_AFTER + SLACK) == -signal.SIGABRT
    older, newest = checkpoints(workdir)
    (workdir / "checkpoints" / str(newest) / DIGEST).write_text("of something else")
    pair = start_pair(f"--workdir={workdir}")
    for process in pair:
        assert f"begins at {older} " in process.done().stdout
    assert f"checkpoint {newest} cannot be read" in pair[0].stderr
    assert "cannot be read" not in pair[1].stderr
    assert (workdir / "results.jsonl").read_bytes() == (finished / "results.jsonl").read_bytes()


def test_sigterm_saves_a_process_alone_too(tmp_path, start_alone):
    workdir = tmp_path / "run"
    process = start_alone(workdir, 2, "--step_seconds=0.3", "--save_every=1000")
    wait_until(lambda: recorded(workdir) >= 3)
    process.send(signal.SIGTERM)
    assert process.status() == STOPPED
    assert checkpoints(workdir) == [recorded(workdir)]
    start_alone(workdir, 2).done()
    other = tmp_path / "undisturbed"
    start_alone(other, 2).done()
    assert (workdir / "results.jsonl").read_bytes() == (other / "results.jsonl").read_bytes()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_which_says_who_was_lost(
    victim, tmp_path, finished, start_pair
):
    workdir = tmp_path / "run"
    pair = start_pair(f"--workdir={workdir}", "--step_seconds=0.3")
    wait_until(lambda: recorded(workdir) >= 6)
    pair[victim].send(signal.SIGKILL)
    began = time.monotonic()
    survivor = pair[1 - victim]
    assert survivor.status(LOST_AFTER + SLACK) == -signal.SIGABRT, survivor.stderr
    print(f"ended {time.monotonic() - began:.1f} s after the kill")
    sentence = survivor.last_sentence()
    # Killed within an exchange, the survivor may end by JAX's own word on it, before the lost one
    # has been silent long enough to be named.
    named = sentence.startswith(f"process {victim} on {socket.gethostname()}")
    assert (named and "was lost" in sentence) or "the run cannot go on" in sentence, sentence
    assert pair[victim].status() == -signal.SIGKILL
    assert_resumes(workdir, finished, start_pair)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_alone_ends_the_other(failing, tmp_path, start_pair):
    pair = start_pair(f"--workdir={tmp_path / 'run'}", f"--fails={failing}")
    assert pair[1 - failing].status(60) == -signal.SIGABRT
    assert pair[failing].status(60) != 0
    assert "error: a mistake of one process alone" in pair[failing].stderr
    who = f"process {failing} on {socket.gethostname()}"
    assert pair[1 - failing].last_sentence().startswith(f"{who} ended early")
    assert pair[failing].last_sentence().startswith(f"{who} failed, as said above")


def test_a_checkpoint_of_four_devices_restores_on_two_and_on_one(
    tmp_path, finished, start_pair, start_alone
):
    """Every bit of the parameters; the losses from there on within the order of additions."""
    workdir = tmp_path / "run"
    pair = start_pair(f"--workdir={workdir}", "--steps=6")
    digests = {process.done().stdout.split()[-1] for process in pair}
    for devices, steps in [(2, 8), (1, 10)]:
        (digest,) = digests
        began, ended = start_alone(workdir, devices, f"--steps={steps}").done().stdout.splitlines()
        assert began.split()[-2:] == [str(steps - 2), digest]
        digests = {ended.split()[-1]}
    (digest,) = digests
    for process in start_pair(f"--workdir={workdir}"):  # and from one back to four
        assert f"begins at 10 {digest}" in process.done().stdout
    for ours, theirs in zip(lines(workdir), lines(finished), strict=True):
        np.testing.assert_allclose(ours["train/loss"], theirs["train/loss"], rtol=1e-5)
