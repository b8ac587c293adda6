"""Along one run: does a step that moves the policy away also climb the prior tasks' loss?

Reads trajectory.jsonl, one line a training step. The paper's Figure 10 plots the cosine between
the update and the gradient of the prior-task loss against the change of KL(base||policy) in that
step. A positive cosine means that the update raises the prior loss to first order.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from rlrazor.analysis.statistics import Interval, t_interval

COSINE = "update_prior_gradient_cosine"
KL_CHANGE = "kl_base_policy_change_nats"
REQUIRED = ("run", "arm", "seed", "step", COSINE, KL_CHANGE)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Columns of equal length, one row a training step; rows with a non-finite value left out."""

    columns: Mapping[str, np.ndarray]  # run, arm: str[N]; seed, step: i64[N]; others f64[N]
    n_excluded: int

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["step"])

    def of_runs(self, runs: np.ndarray) -> "Trajectory":
        """The steps of these runs; what was left out is not known by run and stays counted."""
        mine = np.isin(self["run"].astype(str), runs)
        return Trajectory({name: v[mine] for name, v in self.columns.items()}, self.n_excluded)

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self["arm"].tolist()))


@dataclass(frozen=True)
class StepCorrelation:
    """Spearman correlation of cosine and KL change over the steps of a run, averaged over seeds."""

    arm: str
    correlation: Interval
    n_runs: int
    n_steps: int


def load_trajectory(path: str | Path) -> Trajectory:
    """ValueError names the line and what it lacks."""
    rows: list[dict] = []
    excluded = 0
    for i, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{i} is not JSON ({error.msg}); one object a line") from None
        lacking = [name for name in REQUIRED if not isinstance(row, dict) or name not in row]
        if lacking:
            raise ValueError(f"{path}:{i} lacks {', '.join(lacking)}; needed: {REQUIRED}")
        if all(_finite(row[name]) for name in (COSINE, KL_CHANGE)):
            rows.append(row)
        else:
            excluded += 1
    columns = {
        "run": np.array([str(row["run"]) for row in rows], dtype=object),
        "arm": np.array([str(row["arm"]) for row in rows], dtype=object),
        "seed": np.array([int(row["seed"]) for row in rows], dtype=np.int64),
        "step": np.array([int(row["step"]) for row in rows], dtype=np.int64),
        COSINE: np.array([row[COSINE] for row in rows], dtype=float),
        KL_CHANGE: np.array([row[KL_CHANGE] for row in rows], dtype=float),
    }
    return Trajectory(columns, excluded)


def step_correlations(trajectory: Trajectory) -> list[StepCorrelation]:
    """One entry an arm; an arm whose runs all lack three varied steps has no estimate."""
    entries = []
    for arm in trajectory.arms:
        mine = trajectory["arm"] == arm
        runs = list(dict.fromkeys(trajectory["run"][mine].tolist()))
        by_seed: dict[int, list[float]] = {}
        for run in runs:
            rows = mine & (trajectory["run"] == run)
            seed = int(trajectory["seed"][rows][0])
            rho = _spearman(trajectory[COSINE][rows], trajectory[KL_CHANGE][rows])
            by_seed.setdefault(seed, []).append(rho)
        means = [np.mean(finite) for v in by_seed.values() if (finite := _finite_of(v))]
        entries.append(
            StepCorrelation(arm, t_interval(np.array(means, float)), len(runs), int(mine.sum()))
        )
    return entries


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def _finite_of(values: list[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
