"""One run on many processes: how they find each other, stop together and say who was lost.

A thin layer over `jax.distributed`, which finds the processes of a Cloud TPU, SLURM, Open MPI or
Kubernetes job, notices a dead one by its missing heartbeats and agrees on the step of a stop.

| a process ends with | when |
|---|---|
| 0 | the run is done |
| 75 (`STOPPED`) | SIGTERM came and all saved the same step: the same command resumes |
| SIGABRT (a shell's 134) | another process was lost or failed; the last line of stderr says which |
| another status | it failed itself and says why (2: a mistake in the command) |
"""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from rlrazor.runtime import last_words

log = logging.getLogger(__name__)
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: a failure that goes away by trying again
HOST_BYTES = 64  # of a host's name, Linux's own limit


@dataclasses.dataclass(frozen=True)
class Job:
    """This process among those of the run."""

    process: int
    hosts: tuple[str, ...]  # of every process, by its number
    _terminated: threading.Event  # of a process alone: SIGTERM came

    def stops_at(self, position: int) -> bool:
        """Whether SIGTERM came to any process; all get the same answer at the same position.

        Every process asks at every position, in growing order, and saves under that number: Orbax
        asks the same question with it. When one has the signal, JAX picks the next position that
        none has passed, and there the answer is True.
        """
        if len(self.hosts) == 1:
            return self._terminated.is_set()
        return multihost_utils.reached_preemption_sync_point(position)

    def stop(self, position: int) -> NoReturn:
        """Ends a process whose state is saved, with the status STOPPED."""
        if is_writer():
            log.warning(
                "stopped by SIGTERM; all is saved up to %d: give the same command again to resume",
                position,
            )
        sys.exit(STOPPED)


ALONE = Job(0, (socket.gethostname(),), threading.Event())  # in a notebook: heeds no signal


@contextlib.contextmanager
def alone() -> Iterator[Job]:
    """A run of one process, whose SIGTERM is caught; in the main thread."""
    with _caught_sigterm() as terminated:
        yield Job(0, (socket.gethostname(),), terminated)


@contextlib.contextmanager
def start(
    *,
    coordinator: str | None = None,  # host:port at which process 0 can be reached
    processes: int | None = None,
    process: int | None = None,  # number of this one, from 0
    lost_after_seconds: int = 60,  # without a sign of life, after which the others end
    found_within_seconds: int = 300,
) -> Iterator[Job]:
    """Joins the processes of the run, for the length of a `with`; before the first computation.

    On Cloud TPU and under SLURM nothing needs to be given. A process that is told nothing, by
    arguments or environment, is alone: then only SIGTERM is caught. ValueError for arguments that
    do not belong together, or a coordinator's port that is taken.
    """
    _check(coordinator, processes, process, lost_after_seconds)
    with contextlib.ExitStack() as stack:
        terminated = stack.enter_context(_caught_sigterm())
        several = processes != 1 and _join(
            coordinator, processes, process, lost_after_seconds, found_within_seconds
        )
        if not several:
            yield Job(0, (socket.gethostname(),), terminated)
            return
        hosts = _host_names()
        _explain_endings(
            process=jax.process_index(), hosts=hosts, lost_after_seconds=lost_after_seconds
        )
        yield Job(jax.process_index(), hosts, terminated)
        # Nobody may be late at JAX's own end, which does not wait for a report to be written.
        wait_for_all("the end of the run")


def is_writer() -> bool:
    """Whether this process is the one that writes logs, results and progress."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Goes on when every process has come here; `what` tells one such place from another."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(what)


def tell_all(number: int) -> int:
    """The writer's number (i32), on every process."""
    if not jax.distributed.is_initialized():
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def to_host(tree: Any) -> Any:
    """Arrays of the mesh as arrays of the host, whole on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _check(
    coordinator: str | None, processes: int | None, process: int | None, lost_after_seconds: int
) -> None:
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"--{' and --'.join(missing)} must be given too: together, --coordinator=HOST:PORT "
            "--processes=N --process=I say who this process is; leave out all three where it is "
            "alone, on Cloud TPU and under SLURM"
        )
    if lost_after_seconds < 1:
        raise ValueError(f"lost_after_seconds={lost_after_seconds} must be at least 1")
    if coordinator is None or processes is None or process is None:
        return
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(
            f"--coordinator={coordinator} must be HOST:PORT, as in --coordinator=10.0.0.2:8476"
        )
    if not 0 <= process < processes:
        raise ValueError(
            f"--process={process} must be from 0 to {processes - 1}, below --processes={processes}"
        )
    if process == 0 and processes > 1:
        try:  # JAX 0.10 dies of a taken port without a word
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise ValueError(
                f"--coordinator={coordinator}: process 0 cannot listen on port {port} "
                f"({error.strerror}); choose another port, the same on every process"
            ) from error


def _join(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    lost_after_seconds: int,
    found_within_seconds: int,
) -> bool:
    """Connects this process with the others; False if there are none."""
    if coordinator is not None:
        log.warning(
            "process %s of %s looks for the others at %s, for %d s at most",
            process,
            processes,
            coordinator,
            found_within_seconds,
        )
    elif os.environ.get("SLURM_NTASKS") == "1":
        return False  # JAX would give a SLURM task one device of the node's
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=found_within_seconds,
            heartbeat_timeout_seconds=lost_after_seconds,
            # Later, so that one who is lost is never taken for one who failed and waits to end.
            shutdown_timeout_seconds=lost_after_seconds + 10,
            # With all three flags given, those of a scheduler around them do not count.
            cluster_detection_method=None if coordinator is None else "deactivate",
        )
    except ValueError as error:
        if "coordinator_address" in str(error):  # JAX found no job to be a part of
            return False
        raise
    return jax.process_count() > 1


def _host_names() -> tuple[str, ...]:
    name = socket.gethostname().encode()[:HOST_BYTES].ljust(HOST_BYTES)
    rows = multihost_utils.process_allgather(np.frombuffer(name, np.uint8))
    return tuple(bytes(row).decode(errors="replace").strip() for row in rows)


@contextlib.contextmanager
def _caught_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; where JAX joins processes, it takes the signal over."""
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain_endings(**facts: object) -> None:
    """Lets `last_words` stand between this process and its stderr, from now to its end."""
    read, write = os.pipe()
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", last_words.__file__, json.dumps(facts)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)],
        # What ends a group of processes must not end the one that has to speak last.
        setsigmask=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )
    sys.stderr.flush()
    os.dup2(write, 2)
    os.close(read)
    os.close(write)
