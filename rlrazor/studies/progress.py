"""What a study says of itself on the way: the progress line, TensorBoard, a trace.

Numbers whose names begin with "seconds" tell the time: they are shown, and never stand in results.
`row_tokens`, the tokens learnt from in an iteration without padding, gives the speed.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from rlrazor.runtime.distributed import is_writer
from rlrazor.runtime.hardware import accelerator_of
from rlrazor.studies.study import Block, Run

SHOWN = ("loss", "reward", "tokens_per_second_per_device", "mfu", "hbm_peak_gib")
UNTRACED = 2  # iterations that compile
STEPS = "steps"  # folder of a run's events on the way, beside those of its lines


def timeless(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Results do not tell the time: a resumed run ends with the bytes of one that was not."""
    return {name: value for name, value in metrics.items() if not name.startswith("seconds")}


class Progress:
    """Of one process; only the writer shows and writes anything.

    Runs that train alone put the numbers of their way into TensorBoard too. Of a block of many,
    only their lines are drawn.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        folder: Path,
        *,
        tensorboard: bool,
        log_every: int,  # iterations
        profile: int,  # iterations to trace; 0: none
    ):
        self._blocks, self._folder = blocks, folder
        self._tensorboard, self._log_every, self._profile = tensorboard, log_every, profile
        self._device = jax.local_devices()[0]
        self._accelerator = accelerator_of(self._device.device_kind)
        self._bar = self._board = None
        self._iterations, self._tracing = 0, False  # of this process

    def enter(self, index: int, done: int) -> None:
        """A block begins, or goes on after so many iterations."""
        block = self._blocks[index]
        if self._bar is None:
            work = [len(block) * block[0].iterations for block in self._blocks]
            runs = sum(len(block) for block in self._blocks)
            self._bar = tqdm(
                total=sum(work),
                initial=sum(work[:index]) + len(block) * done,
                desc=f"{runs} runs" if runs > 1 else block[0].name,
                unit=" iterations",
                smoothing=0.05,
                disable=not is_writer(),
            )
        self._close_board()
        alone = len(block) == 1 and done < block[0].iterations
        if self._tensorboard and is_writer() and alone:
            step = done * block[0].steps_per_iteration
            events = self._folder / "tensorboard" / block[0].name / STEPS
            self._board = SummaryWriter(str(events), purge_step=step + 1)

    def started(self) -> float:
        """An iteration begins; the time, in seconds."""
        if self._profile and self._iterations == UNTRACED:
            jax.profiler.start_trace(str(self._folder / "profile"))
            self._tracing = True
        elif self._iterations == UNTRACED + self._profile:
            self._stop_trace()
        self._iterations += 1
        return time.perf_counter()

    def ended(
        self, block: Block, before: int, done: int, metrics: Mapping[str, Any], seconds: float
    ) -> None:
        """What iterations `before` to `done` of a block gave, as numbers on the host."""
        if self._bar is not None:
            self._bar.update(len(block) * (done - before))
        passed = done // self._log_every > before // self._log_every
        if len(block) > 1 or not (passed or done == block[0].iterations):
            return
        found = {name: float(np.reshape(value, ())) for name, value in metrics.items()}
        found |= {"seconds": seconds} | self._speed(block[0], done - before, found, seconds)
        if self._bar is not None:
            self._bar.set_postfix({n: f"{found[n]:.3g}" for n in SHOWN if n in found})
        if self._board is not None:
            for name, value in found.items():
                self._board.add_scalar(f"train/{name}", value, done * block[0].steps_per_iteration)

    def say(self, text: str) -> None:
        """A warning on stderr, above the progress line."""
        if is_writer():
            tqdm.write(text, file=sys.stderr)

    def _speed(
        self, run: Run, iterations: int, found: Mapping[str, float], seconds: float
    ) -> dict[str, float]:
        """Tokens a second, and FLOPs of the whole iteration beside what the devices could do."""
        if "row_tokens" not in found:
            return {}
        devices = jax.device_count()
        speed = {"tokens_per_second_per_device": found["row_tokens"] / seconds / devices}
        if self._accelerator is not None:
            done = run.flops_per_iteration * iterations / devices
            speed["mfu"] = done / seconds / self._accelerator.flops
        memory = self._device.memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            speed["hbm_peak_gib"] = memory["peak_bytes_in_use"] / 2**30
        return speed

    def _stop_trace(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def close(self) -> None:
        self._stop_trace()
        self._close_board()
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def timed(found: dict[str, float], what: str) -> Iterator[None]:
    """Adds the seconds within it, which must end with a result on the host."""
    started = time.perf_counter()
    yield
    found[f"seconds_{what}"] = time.perf_counter() - started
