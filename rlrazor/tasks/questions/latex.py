"""Equality of mathematics by the library math-verify, in processes that can be killed.

sympy may take any time and memory on what a model says. math-verify's own limits are SIGALRM, which
only a main thread may set; a thread cannot be stopped. So a few processes do the work, each of them
a fresh interpreter (jax and fork do not mix) under the kernel's own limits of CPU time and memory.
CPU time, not the clock, decides: the same pair is judged alike on a busy machine.
"""

import atexit
import functools
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

INSTALL = "pip install 'rlrazor[judges]'"
EQUAL, DIFFERENT, LIMIT = "equal", "different", "limit"

_CPU_SECONDS = 2.0  # of a pair; most take some hundredths
_CLOCK_SECONDS = 120.0  # of a pair and of a start, where CPU time stands still
_MEMORY = 4 << 30  # bytes of address space
_PROGRAM = Path(__file__).with_name("latex_worker.py")
_PROCESSES = min(4, os.cpu_count() or 1)
_LONGEST = 1000  # characters of a text


@functools.cache
def installed() -> bool:
    """Whether math-verify can be imported, found without importing it."""
    return importlib.util.find_spec("math_verify") is not None


def equalities(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """EQUAL, DIFFERENT, or LIMIT (of time or memory), for each (gold, answer).

    Of a gold that cannot be parsed nothing is EQUAL. Safe in threads. Raises ValueError without
    math-verify.
    """
    if not installed():
        raise ValueError(f"math-verify is not installed; {INSTALL}")
    wanted = list(dict.fromkeys(pairs))
    found = dict(zip(wanted, _threads().map(_equality, wanted), strict=True))
    return [found[pair] for pair in pairs]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_PROCESSES, "latex")


@functools.lru_cache(maxsize=65536)
def _equality(pair: tuple[str, str]) -> str:
    if max(map(len, pair)) > _LONGEST:
        return DIFFERENT
    worker = _idle.get()
    try:
        return worker.ask(pair)
    finally:
        _idle.put(worker)


class _Worker:
    """A process that is started when it is first asked, and again after it was killed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, pair: tuple[str, str]) -> str:
        if self.process is None:
            self._start()
        answer = self._exchange(json.dumps(pair) + "\n")
        if answer in (EQUAL, DIFFERENT):
            return answer
        self.stop()
        return LIMIT

    def _start(self) -> None:
        self.process = subprocess.Popen(
            # -P: this folder's modules must not hide the standard library's.
            [sys.executable, "-P", str(_PROGRAM), str(_CPU_SECONDS), str(_MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        if self._exchange("") != "ready":
            self.stop()
            raise ValueError(
                f"math-verify cannot be imported by {sys.executable}; try `python -c 'import "
                f"math_verify'`, and {INSTALL}"
            )

    def _exchange(self, line: str) -> str:
        """The next line of the process, "" if it ends or is killed before."""
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        killer = threading.Timer(_CLOCK_SECONDS, process.kill)
        killer.daemon = True
        killer.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline().strip()
        except (OSError, ValueError):
            return ""
        finally:
            killer.cancel()

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                try:
                    if stream is not None:
                        stream.close()
                except OSError:  # a line that nobody will read
                    pass


_WORKERS = tuple(_Worker() for _ in range(_PROCESSES))
_idle: "queue.SimpleQueue[_Worker]" = queue.SimpleQueue()
for _worker in _WORKERS:
    _idle.put(_worker)


@atexit.register
def stop_processes() -> None:
    """Ends what `equalities` has started; the next call starts anew."""
    for worker in _WORKERS:
        worker.stop()
