"""Which runs a config asks for, and their arrays."""

import collections
import dataclasses
import itertools
import math
import operator
from typing import Any

import numpy as np

from experiments.parity.arms import VARIANTS
from rlrazor.training.sweep import Run

COUNTS = (
    "base.examples_per_task", "base.epochs", "base.batch_size", "arm.group_size",
    "self_sft_tries", "teacher.epochs", "batch_size", "checkpoints_per_epoch", "test_examples",
    "fisher_examples", "activation_examples", "trajectory.examples", "runs_per_block",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SweepRun:
    arm: str
    seed: int
    base_epochs: int
    learning_rate: float
    schedule: str
    epochs: int

    @property
    def name(self) -> str:
        return (
            f"{self.arm}-lr{self.learning_rate:.3g}-{self.schedule}-e{self.epochs}"
            f"-b{self.base_epochs}-s{self.seed}"
        )


def learning_rates(low: float, high: float, count: int) -> list[float]:
    """Log-spaced, both ends included, to three digits so that names and tables read well."""
    if not 0 < low <= high or count < 1:
        raise ValueError(
            f"learning rates need 0 < low <= high, count >= 1: got {low}, {high}, {count}"
        )
    return [float(f"{rate:.3g}") for rate in np.geomspace(low, high, count)]


def variants(arms: tuple[str, ...], config: Any) -> list[str]:
    """Expands GRPO and the oracle into the variants that the config chooses."""
    names = []
    for arm in arms:
        if arm not in VARIANTS:
            names.append(arm)
            continue
        field, by_value = VARIANTS[arm]
        for value in config[field]:
            if value not in by_value:
                raise ValueError(f"config.{field} holds {value!r}; allowed: {', '.join(by_value)}")
            names.append(by_value[value])
    return names


def check_config(config: Any, known_arms: list[str]) -> None:
    """Refuses what would otherwise fail after hours of work, unclearly, or not at all."""
    for field in COUNTS:
        value = operator.attrgetter(field)(config)
        if value < 1:
            raise ValueError(f"config.{field}={value} must be at least 1")
    if config.on_divergence not in ("stop", "mark"):
        raise ValueError(f"config.on_divergence={config.on_divergence!r} must be 'stop' or 'mark'")
    if config.teacher.arm not in known_arms or config.teacher.arm == "distilled":
        raise ValueError(
            f"config.teacher.arm={config.teacher.arm!r} must be an arm other than 'distilled': "
            f"{', '.join(sorted({*known_arms} - {'distilled'}))}"
        )
    for arm in config.trajectory.arms:
        if arm not in known_arms:
            raise ValueError(
                f"config.trajectory.arms holds {arm!r}; allowed: {', '.join(sorted(known_arms))}"
            )


def plan_runs(config: Any, known_arms: list[str]) -> list[SweepRun]:
    """Every run, those of equal length together, because a program trains runs of one shape."""
    check_config(config, known_arms)
    sweep = config.sweep
    rates = learning_rates(**sweep.learning_rates)
    for schedule in sweep.schedules:
        if schedule not in ("constant", "cosine"):
            raise ValueError(
                f"config.sweep.schedules holds {schedule!r}; allowed: constant, cosine"
            )
    cells = [(arm, config.base.epochs) for arm in variants(config.arms, config)]
    cells += [
        (arm, epochs)
        for epochs in config.strength.base_epochs
        for arm in variants(config.strength.arms, config)
    ]
    unknown = [arm for arm, _ in cells if arm not in known_arms]
    if unknown:
        raise ValueError(
            f"unknown arm {unknown[0]!r}; allowed: {', '.join(sorted({*known_arms, *VARIANTS}))}"
        )
    # At a constant rate, fewer epochs are the first part of more, to the bit: one run, with its
    # checkpoints, stands for all of them.
    runs = [
        SweepRun(arm, seed, base_epochs, rate, schedule, epochs)
        for epochs, seed, (arm, base_epochs), rate, schedule in itertools.product(
            sorted(sweep.epochs), range(sweep.seeds), cells, rates, sweep.schedules
        )
        if schedule == "cosine" or epochs == max(sweep.epochs)
    ]
    if not runs:
        raise ValueError("the config plans no run; give it at least one arm, seed, rate and epoch")
    repeated = [
        name for name, count in collections.Counter(run.name for run in runs).items() if count > 1
    ]
    if repeated:
        raise ValueError(f"the config plans {repeated[0]!r} twice; remove the repeated value")
    return runs


def split_blocks(runs: list[SweepRun], runs_per_block: int) -> list[list[SweepRun]]:
    """Runs that train side by side: equally many steps, and at most `runs_per_block` of them."""
    blocks = []
    for _, group in itertools.groupby(runs, key=lambda run: run.epochs):
        group = list(group)
        size = math.ceil(len(group) / math.ceil(len(group) / runs_per_block))  # near-equal blocks
        blocks += [group[start : start + size] for start in range(0, len(group), size)]
    return blocks


def base_keys(runs: list[SweepRun]) -> list[tuple[int, int]]:
    """The distinct bases (seed, epochs) that the runs start from."""
    return sorted({(run.seed, run.base_epochs) for run in runs})


def run_arrays(
    runs: list[SweepRun],
    *,
    arms: list[str],
    bases: list[tuple[int, int]],
    warmup_steps: int,
    steps_per_epoch: int,
) -> Run:  # leaves [R]
    """The planned runs as the arrays that the compiled sweep takes."""
    columns: dict[str, Any] = {
        "arm": np.array([arms.index(run.arm) for run in runs], np.int32),
        "base": np.array([bases.index((run.seed, run.base_epochs)) for run in runs], np.int32),
        "learning_rate": np.array([run.learning_rate for run in runs], np.float32),
        "cosine": np.array([run.schedule == "cosine" for run in runs]),
        "warmup_steps": np.full(len(runs), warmup_steps, np.int32),
        "total_steps": np.array([run.epochs * steps_per_epoch for run in runs], np.int32),
        "seed": np.array([run.seed for run in runs], np.int32),
    }
    return Run(**columns)
