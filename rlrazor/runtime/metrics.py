"""Numbers of a training run: their means between two checkpoints, and TensorBoard event files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


def write_tensorboard(lines: list[dict[str, Any]], folder: Path) -> None:
    """One sub-folder of events for each `run` in the lines, replacing earlier events in it.

    Every number with a slash in its name ("new/accuracy") becomes a scalar at the line's `step`.
    Lines come from the writer's results file: other processes have none, and write nothing.
    """
    by_run: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_run.setdefault(line["run"], []).append(line)
    for run, of_run in by_run.items():
        for earlier in (folder / run).glob("events.*"):
            earlier.unlink()
        with SummaryWriter(logdir=str(folder / run)) as writer:
            for line in of_run:
                for name, value in line.items():
                    if "/" in name and isinstance(value, int | float):
                        writer.add_scalar(name, value, global_step=line["step"])


def training_means(means: dict[str, list[float]], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Adds an iteration to sums and counts by name; what is not finite counts as no iteration."""
    added = {name: list(pair) for name, pair in means.items()}
    for name, value in metrics.items():
        total, count = added.get(name, [0.0, 0])
        finite = math.isfinite(value)
        added[name] = [total + (float(value) if finite else 0.0), count + finite]
    return added
