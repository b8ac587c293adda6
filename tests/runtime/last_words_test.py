import json
import subprocess
import sys

import pytest

from rlrazor.runtime import last_words

HOSTS = ["north", "east", "south"]
FATAL = (
    "F1123 01:36:08.831681   29386 client.h:80] Terminating process because the JAX distributed "
    "service detected fatal errors. This most likely indicates that another task died; see the "
    "other task logs for more details. absl::Status: "
)
# What JAX 0.10 writes on stderr when ...
KILLED = (  # ... another process is silent
    f"{FATAL}UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n%s\n"
    "The tasks have crashed. Check the task logs for an earlier error, or scheduler events (e.g. "
    "preemption, eviction) to debug further.\n\nRPC: /xla.coordination.CoordinationService/Poll"
)
COORDINATOR_KILLED = (  # ... process 0 is gone
    f"{FATAL}UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was "
    "preempted/died/restarted unexpectedly or this task is experiencing network issues."
)
FAILED = (  # ... one waits at its end and the others do not come
    f"{FATAL}INTERNAL: Shutdown barrier has failed.\nBarrier result: 'DEADLINE_EXCEEDED: Barrier "
    "timed out. Id: Shutdown::3374::0.\n# of tasks that reached the barrier: 1/3.\n"
    "The first task at the barrier: %s. Some timed out task names:\n0\n2\n"
)


def sentence(stderr, process=0):
    return last_words.last_words(stderr, process=process, hosts=HOSTS, lost_after_seconds=60)


@pytest.mark.parametrize(
    ("stderr", "process", "begins"),
    [
        (KILLED % "1", 0, "process 1 on east was lost: no sign of life for 60 s; process 0 on"),
        (KILLED % "1\n2", 0, "process 1 on east and process 2 on south were lost: "),
        (KILLED % "/job:jax_worker/replica:0/task:2", 0, "process 2 on south was lost: "),
        (COORDINATOR_KILLED, 2, "process 0 on north, which coordinates the others, was lost; "),
        (FAILED % "1", 0, "process 1 on east ended early, for what its own output says; "),
        (FAILED % "1", 1, "process 1 on east failed, as said above, and the others end with it; "),
        (FATAL + "INTERNAL: something new", 1, "the run cannot go on, for what JAX says above; "),
    ],
)
def test_who_was_lost_is_said_first_and_what_to_do_last(stderr, process, begins):
    said = sentence(f"step 1\rstep 2\n{stderr}\n*** Check failure stack trace: ***\n", process)
    assert said is not None
    assert said.startswith(begins)
    assert said.endswith("from the newest checkpoint")
    assert "\n" not in said


@pytest.mark.parametrize(
    "stderr", ["", "Traceback ...\nValueError: unhealthy (stopped sending heartbeats):\n1\n"]
)
def test_nothing_is_added_to_what_a_process_says_of_itself(stderr):
    assert sentence(stderr) is None


def run(stderr):
    facts = {"process": 0, "hosts": HOSTS, "lost_after_seconds": 60}
    return subprocess.run(
        [sys.executable, "-I", last_words.__file__, json.dumps(facts)],
        input=stderr,
        capture_output=True,
        check=True,
    )


def test_every_byte_is_passed_on():
    stderr = b"a\rb\n\xff\x00no end of line" * 10_000
    ended = run(stderr)
    assert ended.stderr == stderr
    assert ended.stdout == b""


def test_the_sentence_is_a_line_of_its_own_behind_everything():
    stderr = "progress\r" * 100_000 + KILLED % "2" + "frame\n" * 1000 + "no end of line"
    ended = run(stderr.encode()).stderr.decode()
    assert ended.startswith(stderr)
    assert ended.removeprefix(stderr) == f"\n{sentence(stderr)}\n"
