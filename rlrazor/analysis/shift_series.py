"""Success under both rules as curves and as pairs of columns, with intervals over seeds.

Curves: pass@k, and success along the checkpoints of a run, against FLOPs or recognition. Pairs:
one answer judged twice, by two rules or by two verifiers.
"""

import re
from dataclasses import dataclass

import numpy as np

from rlrazor.analysis.results import Results
from rlrazor.analysis.shift import by_seed
from rlrazor.analysis.statistics import Interval, paired, t_interval


@dataclass(frozen=True, eq=False)
class Curve:
    """Means over seeds of y, at each k or along the checkpoints of an arm."""

    arm: str  # "" is the base
    x: np.ndarray  # f64[P]
    y: np.ndarray  # f64[P]
    low: np.ndarray  # f64[P], NaN with one seed
    high: np.ndarray  # f64[P]
    n_seeds: int
    n_runs: int


@dataclass(frozen=True)
class Pair:
    """Two columns of an arm's last checkpoints, and their difference seed by seed."""

    arm: str
    first: Interval
    second: Interval
    difference: Interval  # first - second
    n_runs: int
    n_seeds: int
    n_excluded: int  # runs without a finite value of both


def pass_ks(results: Results, task: str) -> list[int]:
    """The k, increasing, for which some run has pass@k."""
    found = [re.fullmatch(rf"{task}/pass_at_(\d+)", name) for name in results.columns]
    named = [(int(match[1]), match[0]) for match in found if match]
    return sorted(k for k, name in named if np.isfinite(results[name].astype(float)).any())


def pass_curves(results: Results, task: str) -> list[Curve]:
    """The base first, then every arm with pass@k at its last checkpoint."""
    ks, seeds, last = pass_ks(results, task), results.seeds, results.final()
    out = []
    for arm in ("", *last.arms):
        rows = last.of_arms(arm) if arm else results
        prefix = f"{task}/{'' if arm else 'base_'}pass_at_"
        values = np.array([by_seed(rows, f"{prefix}{k}", seeds) for k in ks])
        if values.size and np.isfinite(values).any():
            out.append(_curve(arm, np.array(ks, float), values, rows))
    return out


def paths(results: Results, x: str, y: str) -> list[Curve]:
    """y against x along the checkpoints of each arm: means over seeds at every step they share."""
    if x not in results or y not in results:
        return []
    out = []
    for arm in results.arms:
        rows, _ = results.of_arms(arm).finite(x, y)
        seeds = rows.seeds
        at = [rows.select(rows["step"] == step) for step in np.unique(rows["step"])]
        at = [part for part in at if len(part.seeds) == len(seeds)]
        if at:
            along = np.array([np.mean(by_seed(part, x, seeds)) for part in at])
            out.append(_curve(arm, along, np.array([by_seed(p, y, seeds) for p in at]), rows))
    return out


def pairs(results: Results, first: str, second: str) -> list[Pair]:
    """One entry an arm with both columns at its last checkpoint."""
    if first not in results or second not in results:
        return []
    out = []
    for arm in results.arms:
        last = results.of_arms(arm).final()
        rows, excluded = last.finite(first, second)
        if not len(rows):
            continue
        seeds = rows.seeds
        a, b = by_seed(rows, first, seeds), by_seed(rows, second, seeds)
        gap = paired(a, b, seeds).difference
        means = t_interval(a), t_interval(b)
        out.append(Pair(arm, *means, gap, rows.n_runs, len(seeds), excluded))
    return out


def shift_as_prior(results: Results, place: str) -> Results:
    """The same rows with success under a shift in the place of the prior tasks'.

    Then `forgetting` is minus the shift's change, and the laws of law.py are laws of it.
    """
    moved = {f"prior/{name}": results[f"{place}/{name}"] for name in ("accuracy", "base_accuracy")}
    return Results({**results.columns, **moved})


def _curve(arm: str, x: np.ndarray, values: np.ndarray, rows: Results) -> Curve:
    """values f64[P, S] -> their means and limits."""
    points = [t_interval(column) for column in values]
    y, low, high = (np.array([getattr(p, n) for p in points]) for n in ("estimate", "low", "high"))
    return Curve(arm, x, y, low, high, max(p.n for p in points), rows.n_runs)
