"""The one loop: it trains, measures and writes down what a study plans; interrupted at will.

Every number in results.jsonl is a function of the study alone: after any interruption the same
call ends with the same bytes. Wall-clock seconds therefore stay out of it.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlrazor.runtime.checkpoint import Checkpoints
from rlrazor.runtime.distributed import ALONE, Job, tell_all
from rlrazor.runtime.metrics import training_means, write_tensorboard
from rlrazor.runtime.workdir import ResultsFile, open_workdir
from rlrazor.studies.lines import Sums, lines
from rlrazor.studies.progress import Progress, timeless
from rlrazor.studies.study import Block, Study, check_plan


def drive(
    study: Study,
    workdir: str | Path,
    *,
    job: Job = ALONE,
    checkpoint_every_seconds: float = 120.0,
    tensorboard: bool = True,
    log_every: int = 1,  # iterations of a run that trains alone
    profile: int = 0,  # iterations to trace
    opened: bool = False,  # the caller holds the folder, and has compared what is learnt
) -> Path:
    """Runs or resumes every block of the study; returns the folder, with results.jsonl in it.

    All processes of the job call this with the same arguments. ValueError for a folder or a plan
    that cannot be used. A process that gets SIGTERM saves and ends with `distributed.STOPPED`.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(workdir)
        if not opened:
            folder = stack.enter_context(open_workdir(workdir, dict(study.record)))
        study.folder = folder
        blocks = study.plan()
        check_plan(blocks)
        progress = Progress(
            blocks, folder, tensorboard=tensorboard, log_every=log_every, profile=profile
        )
        stack.enter_context(contextlib.closing(progress))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder / "checkpoints")))
        board = folder / "tensorboard" if tensorboard else None
        loop = _Loop(study, ResultsFile(folder / "results.jsonl"), board, progress)
        loop.resume(checkpoints, blocks)
        before = [0, *itertools.accumulate(block[0].iterations for block in blocks)]
        saved_at = time.monotonic()
        for index in range(loop.place.block, len(blocks)):
            loop.enter(blocks[index], index)
            while loop.place.done < blocks[index][0].iterations:
                loop.advance(blocks[index])
                position = before[index] + loop.place.done
                stopping = job.stops_at(position)
                due = tell_all(time.monotonic() - saved_at >= checkpoint_every_seconds)
                if stopping or due or position == before[index + 1]:
                    checkpoints.save(position, loop.state, dataclasses.asdict(loop.place))
                    saved_at = time.monotonic()
                if stopping and position < before[-1]:
                    progress.close()  # what is said now stands on a line of its own
                    job.stop(position)
            loop.state = None  # two blocks never lie in memory together
    return folder


@dataclasses.dataclass
class Place:
    """Where a study stands, as a checkpoint notes it."""

    block: int = 0
    done: int = 0  # iterations of the block
    bytes: int = 0  # of results.jsonl
    sums: list[Sums] = dataclasses.field(default_factory=list)  # of each run, since its last line


class _Loop:
    """A study on its way: the state of one block, and what is written down of it."""

    def __init__(self, study: Study, results: ResultsFile, board: Path | None, progress: Progress):
        self._study, self._results = study, results
        self._board, self._progress = board, progress
        self._diverged: set[str] = set()  # runs of which that was said
        self.state: Any = None  # None: the next block is to be begun
        self.place = Place()

    def resume(self, checkpoints: Checkpoints, blocks: Sequence[Block]) -> None:
        """Goes back to the newest checkpoint, and cuts off what was written after it."""
        restored = checkpoints.restore_newest(
            lambda note: _shapes(self._study.begin(blocks[note["block"]]))
        )
        if restored is not None:
            self.state, self.place = restored[0], Place(**restored[1])
        self._results.cut(self.place.bytes)

    def enter(self, block: Block, index: int) -> None:
        """Begins a block, unless it is the one that was restored."""
        if self.state is None:
            self.state = self._study.begin(block)
            self.place = Place(index, 0, self.place.bytes, [{} for _ in block])
            self._measure(block)
        self._progress.enter(self.place.block, self.place.done)

    def advance(self, block: Block) -> None:
        """One unit of work, measured where it ends at a stop."""
        before, started = self.place.done, self._progress.started()
        self.state, done, metrics = self._study.advance(block, self.state, before)
        metrics = jax.device_get(metrics)
        self._progress.ended(block, before, done, metrics, time.perf_counter() - started)
        _check_unit(block, before, done)
        self.place.done = done
        numbers = _of_each(block, timeless(metrics))
        pairs = zip(self.place.sums, numbers, strict=True)
        self.place.sums = [training_means(sums, mine) for sums, mine in pairs]
        self._measure(block)

    def _measure(self, block: Block) -> None:
        """Writes the block's lines and keeps its policies, if it stands at a stop."""
        at, place = self.place.done, self.place
        if at not in block[0].stops:
            return
        columns = self._study.measure(block, self.state, at)
        found = lines(self._study.title, block, at, columns, place.sums)
        place.bytes, place.sums = self._results.append(found), [{} for _ in block]
        self._study.keep(block, self.state, at)
        self._say_diverged(found)
        # Several runs are drawn when they have ended, before the checkpoint after which nobody
        # would come back to them.
        if self._board is not None and (len(block) == 1 or at == block[0].iterations):
            names = {run.name for run in block}
            mine = [line for line in self._results.read() if line["run"] in names]
            write_tensorboard(mine, self._board)

    def _say_diverged(self, found: list[dict[str, Any]]) -> None:
        new = [line for line in found if line["diverged"] and line["run"] not in self._diverged]
        self._diverged |= {line["run"] for line in new}
        if new:
            names = ", ".join(line["run"] for line in new)
            self._progress.say(
                f"not finite, and marked as diverged, by step {new[0]['step']}: {names}"
            )


def _check_unit(block: Block, before: int, done: int) -> None:
    """A unit of work that does nothing or passes a stop would never be measured."""
    stop = min(stop for stop in block[0].stops if stop > before)
    if not before < done <= stop:
        raise ValueError(
            f"`advance` of {block[0].name} went from {before} to {done} iterations; it must go on, "
            f"to {stop}, where the run is measured, at most"
        )


def _of_each(block: Block, metrics: Mapping[str, Any]) -> list[dict[str, float]]:
    """The numbers of every run of a block; one for all is that of each."""
    of_each: list[dict[str, float]] = [{} for _ in block]
    for name, value in metrics.items():
        if np.shape(value) not in ((), (len(block),)):
            raise ValueError(
                f"`advance` of {block[0].name} gave {name!r} of shape {np.shape(value)}; it must "
                f"be () or ({len(block)},), one number for each run of the block"
            )
        for mine, number in zip(of_each, np.broadcast_to(value, len(block)), strict=True):
            mine[name] = float(number)
    return of_each


def _shapes(state: Any) -> Any:
    """What restoring needs to know of a state, which then need not lie beside the restored one."""

    def of(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        return leaf

    return jax.tree.map(of, state)
