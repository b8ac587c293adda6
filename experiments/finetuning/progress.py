"""What a run says of itself on the way: the progress line, TensorBoard, a trace."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from rlrazor.runtime.distributed import is_writer
from rlrazor.runtime.hardware import accelerator_of
from rlrazor.runtime.metrics import training_means

SHOWN = ("loss", "reward", "tokens_per_second_per_device", "mfu", "hbm_peak_gib")
UNTRACED = 2  # steps that compile


class Progress:
    """Of one process; only the writer shows and writes anything."""

    def __init__(
        self,
        config: Any,
        folder: Path,
        *,
        start: int,  # steps that are done
        sums: dict[str, list[float]],  # of an interrupted run, as `sums` was
        flops_per_token: float,  # of a model's forward and backward pass, nothing twice
    ):
        self._config, self._folder, self._flops = config, folder, flops_per_token
        self._device = jax.local_devices()[0]
        self._accelerator = accelerator_of(self._device.device_kind)
        self.sums = sums
        self._first, self._tracing = start + 1, False
        self._bar = tqdm(total=config.steps, initial=start, unit=" steps", disable=not is_writer())
        self._board = None
        if config.tensorboard and is_writer():
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[dict[str, float]]:
        """Gives the mapping into which a step puts what it found; shows and writes it."""
        self._trace(number)
        found: dict[str, float] = {}
        started = time.perf_counter()
        yield found
        found["seconds"] = time.perf_counter() - started
        # Results do not tell the time: a resumed run ends with the bytes of one that was not.
        timeless = {n: value for n, value in found.items() if not n.startswith("seconds")}
        self.sums = training_means(self.sums, timeless)
        found |= self._speed(found)
        if number % self._config.log_every == 0 or number == self._config.steps:
            self.write("train", number, found)
            self._bar.set_postfix({n: f"{found[n]:.3g}" for n in SHOWN if n in found})
        self._bar.update()

    def _speed(self, found: Mapping[str, float]) -> dict[str, float]:
        """Tokens are those of rows that were learnt from, without padding."""
        tokens, devices = found["row_tokens"], jax.device_count()
        speed = {"tokens_per_second_per_device": tokens / found["seconds"] / devices}
        if self._accelerator is not None:
            done = self._flops * tokens / devices
            speed["mfu"] = done / found["seconds_update"] / self._accelerator.flops
        memory = self._device.memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            speed["hbm_peak_gib"] = memory["peak_bytes_in_use"] / 2**30
        return speed

    def means(self) -> dict[str, float]:
        """Over the steps since it was last asked; what was not finite counts as no step."""
        found = {name: total / count for name, (total, count) in self.sums.items() if count}
        self.sums = {}
        return found

    def write(self, group: str, number: int, found: Mapping[str, Any]) -> None:
        """Numbers to TensorBoard; those with a group in their name keep it."""
        if self._board is not None:
            for name, value in found.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._board.add_scalar(
                        name if "/" in name else f"{group}/{name}", value, number
                    )

    def _trace(self, number: int) -> None:
        begin = self._first + UNTRACED
        if self._config.profile and number == begin:
            jax.profiler.start_trace(str(self._folder / "profile"))
            self._tracing = True
        elif self._tracing and number == begin + self._config.profile:
            self._stop_trace()

    def _stop_trace(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def close(self) -> None:
        self._stop_trace()
        self._bar.close()
        if self._board is not None:
            self._board.close()


@contextlib.contextmanager
def timed(found: dict[str, float], what: str) -> Iterator[None]:
    """Adds the seconds within it, which must end with a result on the host."""
    started = time.perf_counter()
    yield
    found[f"seconds_{what}"] = time.perf_counter() - started
