"""Runs an experiment's script as its command line does, in a process of its own, quickly.

Importing JAX and friends takes most of a small command's time, so each process is forked from a
server that has imported them already and has computed nothing.
"""

import dataclasses
import errno
import importlib
import itertools
import logging
import multiprocessing
import os
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRESS = re.compile(r"\d+/\d+ \[.*iterations")  # what a bar says
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "tests.oracles.scripts", "jax", "optax", "flax.linen", "orbax.checkpoint", "scipy.stats",
        "sklearn.datasets", "matplotlib.pyplot", "absl.app", "ml_collections.config_flags",
    ]
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ended:
    status: int  # negative: the signal that ended it
    stdout: str
    stderr: str

    @property
    def sentences(self) -> list[str]:
        """The lines on stderr, progress bars aside."""
        lines = [line.split("\r")[-1] for line in self.stderr.splitlines()]
        return [line for line in lines if line.strip() and not PROGRESS.search(line)]

    @property
    def sentence(self) -> str:
        """The only one of them."""
        assert len(self.sentences) == 1, self.stderr
        return self.sentences[0]


class Script:
    """A script that runs now; `patch` ("module:function") is called first, in its process."""

    def __init__(
        self, name: str, *arguments: str, folder: Path, cache: Path | None, patch: str = ""
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._outputs = [folder / "stdout", folder / "stderr"]
        self._process = SERVER.Process(
            target=_run, args=(name, arguments, self._outputs, cache, patch), daemon=True
        )
        self._process.start()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def wait(self, seconds: float = 600) -> Ended:
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return Ended(self._process.exitcode, *(path.read_text() for path in self._outputs))

    def kill_when(self, condition: Callable[[], bool]) -> Ended:
        """SIGKILL as soon as the condition holds (or nothing, if the script ended before)."""
        while self._process.is_alive() and not condition():
            time.sleep(0.002)
        self._process.kill()
        return self.wait()


def newest(workdir: Path) -> int:
    """The position behind the newest finished checkpoint; 0 before there is one."""
    folder = workdir / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return max([int(name) for name in names if name.isdigit()], default=0)


def compile_settings(cache: Path | None) -> dict[str, Any]:
    """Settings of JAX for programs that run once: few optimisations, every program kept."""
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    return settings | ({"jax_compilation_cache_dir": str(cache)} if cache else {})


def _run(name, arguments, outputs, cache, patch):
    for fd, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    # multiprocessing has replaced them by streams of its own
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    logging.root.handlers.clear()  # those of the server
    import jax

    for option, value in compile_settings(cache).items():
        jax.config.update(option, value)
    if patch:
        module, function = patch.split(":")
        getattr(importlib.import_module(module), function)()
    sys.argv = [str(ROOT / "experiments" / name), *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


# Patches: what a test changes in the script's process.


def without_report() -> None:
    """Results only: the report is a function of them, and costs more than a tiny study."""
    from experiments import report

    def build(paths, out, *, title):
        (results,) = paths[""]
        return f"{sum(1 for _ in open(results))} lines", out

    report.build = build


def full_at_the_tenth_file() -> None:
    """The tenth file that is to be made durable does not fit any more."""
    without_report()
    calls, fsync = itertools.count(1), os.fsync

    def fails_at_last(fd):
        if next(calls) >= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    os.fsync = fails_at_last


def full_in_a_save() -> None:
    """What Orbax raises when TensorStore cannot write, in the third checkpoint."""
    import orbax.checkpoint as ocp

    without_report()
    save = ocp.CheckpointManager.save

    def fails_at_last(manager, position, **options):
        if position == 3:
            raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [28]")
        return save(manager, position, **options)

    ocp.CheckpointManager.save = fails_at_last


def interrupted() -> None:
    """Control-C during the work."""
    from experiments.parity import study

    def stop(*args, **options):
        raise KeyboardInterrupt

    study.pretrain = stop


def killed_in_the_eighth_save() -> None:
    """Ends when all is written and Orbax is about to give the folder its final name."""
    without_report()
    rename = os.rename

    def dies_at_last(source, target, **options):
        if Path(target).name == "8":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **options)

    os.rename = dies_at_last
