"""One JSON line a run and stop, schema 2: the only thing that analysis reads."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlrazor.lines import SCHEMA, check_line
from rlrazor.studies.study import Block, Columns, Run

TESTED = ("new", "shift", "prior")  # places of which every number must be one
Sums = dict[str, list[float]]  # sum and count by name, see `runtime.metrics.training_means`


def lines(
    title: str,  # of the study
    block: Block,
    at: int,  # iterations
    columns: Sequence[Columns],  # of each run, as measured
    means: Sequence[Sums],  # of each run, over the iterations since its last line
) -> list[dict[str, Any]]:
    """The lines of a block after `at` iterations. What is not finite is null: JSON has no NaN."""
    return [
        _line(title, run, at, measured, sums)
        for run, measured, sums in zip(block, columns, means, strict=True)
    ]


def _line(title: str, run: Run, at: int, measured: Columns, sums: Sums) -> dict[str, Any]:
    trained = {
        f"train/{name}": total / count if count else math.nan
        for name, (total, count) in sums.items()
    }
    texts = {name: value for name, value in measured.items() if isinstance(value, str)}
    numbers = {
        name: np.asarray(value).item()
        for name, value in {**measured, **trained}.items()
        if name not in texts
    }
    roles = {} if run.roles is None else {"roles": run.roles}
    line = {
        "schema": SCHEMA,
        "study": title,
        "run": run.name,
        "arm": run.arm,
        "method": run.method,
        "variant": run.variant,
        "family": run.family,
        "label": run.label,
        **roles,
        "seed": run.seed,
        "base": run.base,
        "step": at * run.steps_per_iteration,
        "updates": at * run.updates_per_iteration,
        "final": at == run.iterations,
        "diverged": _diverged(numbers),
        "flops": run.flops_before + at * run.flops_per_iteration,
        "flops_teacher": run.flops_teacher,
        "hyperparameters": dict(run.hyperparameters),
        **{name: v if math.isfinite(v) else None for name, v in numbers.items()},
        **texts,
    }
    check_line(line)
    return line


def _diverged(numbers: Mapping[str, float]) -> bool:
    """Whether a test or the loss is no number; of other columns, some may be undefined."""
    return any(
        not math.isfinite(value)
        for name, value in numbers.items()
        if name == "train/loss" or name.split("/")[0] in TESTED
    )
