"""A run's folder: who owns it, what made it, and results that are never lost nor doubled."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlrazor.runtime.distributed import is_writer, wait_for_all

PACKAGES = ("rlrazor", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
BOOKKEEPING = (".lock", "run.json", "run.json.partial")  # the last is left by a killed start


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in sorted(old.keys() | new.keys())
            for line in _differences(
                old.get(name), new.get(name), f"{path}.{name}" if path else name
            )
        ]
    return [] if old == new else [f"{path} was {old!r}, now {new!r}"]


def _is_empty(path: Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0


def write_whole(path: Path, text: str) -> None:
    """Writes a whole file or none: a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def json_lines(lines: list[dict[str, Any]]) -> str:
    """One JSON object a line; ValueError for a number that JSON does not have."""
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)


def describe_run(config: dict[str, Any]) -> dict[str, Any]:
    """What a reader needs to run it again: config, commit, versions, command."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown (not a git checkout)"
    return {
        "config": config,
        "commit": commit,
        "python": sys.version.split()[0],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


@contextlib.contextmanager
def open_workdir(
    path: str | Path, config: dict[str, Any], *, ignore: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Creates or reopens a run's folder and holds it against a second process.

    Raises ValueError if the path cannot be written, holds somebody else's files, was made with
    another config (top-level names in `ignore` may differ: they do not touch the results), or is
    in use. Nothing in it is changed then. A folder in which nothing was recorded yet, because the
    first command failed, may be reopened with any config.

    Where a run has several processes, the writer does all this, in a folder that all see.
    """
    if "://" in str(path):
        raise ValueError(
            f"workdir={str(path)!r} must be a folder of the file system, which buckets are not; "
            "use a disk or network file system, and copy from there"
        )
    path = Path(path)
    if not is_writer():
        wait_for_all("workdir")
        yield path
        return
    record = path / "run.json"
    config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists
    try:
        path.mkdir(parents=True, exist_ok=True)
        recorded = sorted(p.name for p in path.iterdir() if p.name not in BOOKKEEPING)
        if recorded and not record.exists():
            raise ValueError(
                f"workdir={str(path)!r} holds files that are not a run of ours "
                f"({', '.join(recorded[:3])}); choose an empty or new folder"
            )
        lock = (path / ".lock").open("a")
    except OSError as error:
        raise ValueError(
            f"workdir={str(path)!r} cannot be written ({error.strerror}); "
            "choose a folder of your own with --workdir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"workdir={str(path)!r} is in use by another process; wait for it or choose another"
            ) from error
        changed = []
        if record.exists():
            try:
                old = dict(json.loads(record.read_text())["config"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{record} is not a run record ({error}); choose another --workdir"
                ) from error
            changed = _differences(
                {k: v for k, v in old.items() if k not in ignore},
                {k: v for k, v in config.items() if k not in ignore},
            )
            if changed and not all(_is_empty(path / name) for name in recorded):
                raise ValueError(
                    f"workdir={str(path)!r} was made with another config: "
                    f"{'; '.join(changed[:3])}{' ...' if len(changed) > 3 else ''}. "
                    "Use the same config to resume, or another --workdir"
                )
        if changed or not record.exists():
            write_whole(record, json.dumps(describe_run(config), indent=2) + "\n")
        wait_for_all("workdir")
        yield path


class ResultsFile:
    """Append-only JSON lines whose length a checkpoint remembers.

    A resumed run cuts the file back to where its checkpoint was taken and writes the lines again:
    none is lost and none stands twice. Of a run's processes, the writer alone has the file; for
    the others it is empty and stays so.
    """

    def __init__(self, path: Path):
        self._path = path
        if is_writer():
            self._path.touch()

    def append(self, lines: list[dict[str, Any]]) -> int:
        """Adds lines, durably; returns the file's new length in bytes."""
        if not is_writer():
            return 0
        with self._path.open("a") as file:
            file.write(json_lines(lines))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, length: int) -> None:
        """Keeps the first `length` bytes; ValueError if the file is shorter than that."""
        if not is_writer():
            return
        size = self._path.stat().st_size
        if size < length:
            raise ValueError(
                f"{self._path} has {size} bytes but its checkpoint remembers {length}: the file "
                "was changed from outside; restore it, or start again in another --workdir"
            )
        os.truncate(self._path, length)

    def read(self) -> list[dict[str, Any]]:
        if not is_writer():
            return []
        return [json.loads(line) for line in self._path.read_text().splitlines()]
