"""One process and its mistakes; several of them are in tests/slow/hosts_test.py."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from rlrazor.runtime import distributed

ALONE = """
from rlrazor.runtime.distributed import start
import jax
with start() as job:
    print(job.process, len(job.hosts), jax.distributed.is_initialized(), jax.device_count())
"""


@pytest.fixture
def not_joined(monkeypatch):
    """JAX finds no job around this process, as on a laptop; records how it was asked."""
    asked = []

    def initialize(*arguments, **options):
        asked.append((arguments, options))
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return asked


def test_a_process_that_nothing_is_told_is_alone():
    ended = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.stdout.split()[:3], ended.stderr) == (["0", "1", "False"], ""), ended


def test_the_timeouts_reach_jax(not_joined):
    with distributed.start(lost_after_seconds=7, found_within_seconds=11) as job:
        assert (job.process, job.hosts) == (0, (socket.gethostname(),))
    ((_, options),) = not_joined
    assert options["heartbeat_timeout_seconds"] == 7
    assert options["shutdown_timeout_seconds"] > 7
    assert options["initialization_timeout"] == 11


def test_another_mistake_of_the_environment_is_not_swallowed(monkeypatch):
    def initialize(*arguments, **options):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match="Number of processes"), distributed.start():
        pass


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ({}, {"SLURM_NTASKS": "1"}),
        ({"coordinator": "10.0.0.2:8476", "processes": 1, "process": 0}, {}),
    ],
    ids=str,
)
def test_one_of_one_needs_no_jax_service(arguments, environment, monkeypatch, not_joined):
    """Under SLURM it would also hide all but one device of the node."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with distributed.start(**arguments) as job:
        assert job.hosts == (socket.gethostname(),)
    assert not_joined == []


COMPLETE = {"coordinator": "10.0.0.2:8476", "processes": 2, "process": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coordinator": None}, r"^--coordinator must be given too: together, --coordinator=HOST"),
        ({"process": None}, "^--process must be given too"),
        ({"processes": None, "coordinator": None}, "^--coordinator and --processes must be given"),
        ({"coordinator": "10.0.0.2"}, r"--coordinator=10.0.0.2 must be HOST:PORT, as in"),
        ({"coordinator": ":8476"}, "must be HOST:PORT"),
        ({"coordinator": "10.0.0.2:http"}, "must be HOST:PORT"),
        ({"coordinator": "10.0.0.2:65536"}, "must be HOST:PORT"),
        ({"process": 2}, "--process=2 must be from 0 to 1, below --processes=2"),
        ({"process": -1}, "--process=-1 must be from 0 to 1"),
        ({"lost_after_seconds": 0}, "lost_after_seconds=0 must be at least 1"),
    ],
)
def test_half_given_flags_are_refused(change, message, not_joined):
    with pytest.raises(ValueError, match=message), distributed.start(**(COMPLETE | change)):
        pass
    assert not_joined == []


def test_a_port_that_is_taken_is_refused(not_joined):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = COMPLETE | {"coordinator": f"127.0.0.1:{port}", "process": 0}
        with (
            pytest.raises(ValueError, match=f"cannot listen on port {port} .*another port"),
            distributed.start(**arguments),
        ):
            pass
    assert not_joined == []


def test_sigterm_is_caught_once_asked_for_and_not_before_or_after(not_joined):
    before = signal.getsignal(signal.SIGTERM)
    with distributed.start() as job:
        assert not job.stops_at(1)
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + 600  # only against hanging for ever
        while not job.stops_at(2):
            assert time.monotonic() < until
        with pytest.raises(SystemExit) as ended:
            job.stop(2)
    assert ended.value.code == distributed.STOPPED == 75
    assert signal.getsignal(signal.SIGTERM) is before


def test_alone_everything_is_its_own_to_write_and_nobody_is_waited_for():
    assert distributed.is_writer()
    assert distributed.tell_all(7) == 7
    distributed.wait_for_all("nobody")
