"""Learning-forgetting frontiers, and forgetting at matched new-task accuracy.

Two readings. **Best**: the upper envelope over all runs and checkpoints of an arm from one base,
F(a) = max prior accuracy among checkpoints with new-task accuracy >= a (the base itself counts, as
the run of zero steps). This is the paper's frontier; it chooses in hindsight, so an arm with more
runs is favoured. **Typical**: each run when it first reaches a, interpolated between its two
neighbouring checkpoints (the base before the first), averaged over runs. Both are averaged over
the bases of a seed, then over seeds. Bases of very different strength do not belong in one
frontier: take `main_base(results)` first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import (
    LEVEL,
    Comparison,
    Interval,
    adjust,
    paired,
    seed_means,
    t_interval,
)

BRACKET = 0.05  # a run that jumps further than this between checkpoints is not interpolated


@dataclass(frozen=True, eq=False)
class Frontier:
    """The best reading of one arm over a grid of new-task accuracies."""

    arm: str
    new_accuracy: np.ndarray  # f64[P] grid
    prior_accuracy: np.ndarray  # f64[P] mean over seeds, NaN where no seed reaches
    low: np.ndarray  # f64[P] t limits over seeds, NaN with fewer than two
    high: np.ndarray  # f64[P]
    n_seeds: np.ndarray  # i64[P] seeds that reach this accuracy
    n_runs: int
    n_excluded: int  # rows of this arm with a non-finite accuracy


@dataclass(frozen=True, eq=False)
class Matched:
    """Forgetting of one arm at a new-task accuracy, fraction of one."""

    arm: str
    target: float
    best: Interval
    typical: Interval
    n_seeds: int  # of the arm
    n_runs: int  # of the arm
    n_runs_reaching: int
    n_runs_jumped: int  # reached, but across more than BRACKET: in `best`, not in `typical`
    best_by_base: np.ndarray  # f64[U], NaN where not reached
    typical_by_base: np.ndarray  # f64[U]
    base_seeds: np.ndarray  # i64[U] seed of each base; the same for every arm of one call
    n_excluded: int  # rows of this arm with a non-finite accuracy


@dataclass(frozen=True)
class ArmComparison:
    """Forgetting of one arm against a reference arm at one new-task accuracy."""

    arm: str
    reference: str
    target: float
    reading: str  # "best" or "typical"
    comparison: Comparison  # forgetting of arm - forgetting of reference
    p_adjusted: float  # over all arms of the call, Benjamini-Hochberg
    word: str  # "less" / "more" forgetting than the reference / "undecided"


def envelope(
    new: np.ndarray,  # f64[N] new-task accuracies of the runs from one base
    prior: np.ndarray,  # f64[N] their prior accuracies
    at: np.ndarray,  # f64[P]
) -> np.ndarray:  # f64[P], NaN beyond the highest new-task accuracy
    """F(a) = max prior accuracy among checkpoints with new-task accuracy >= a."""
    order = np.argsort(-new, kind="stable")
    running = np.maximum.accumulate(prior[order])
    count = np.searchsorted(-new[order], -at, side="right")  # checkpoints with new >= a
    return np.where(count > 0, running[np.maximum(count, 1) - 1], np.nan)


def frontiers(results: Results, grid: np.ndarray | None = None) -> list[Frontier]:
    """One an arm; default grid: 101 accuracies from the lowest base to the highest reached."""
    rows, _ = _accurate(results)
    if not len(rows):
        return []
    low, high = np.min(rows["new/base_accuracy"]), np.max(rows["new/accuracy"])
    at = np.linspace(min(low, high), high, 101) if grid is None else np.asarray(grid, float)
    base, base_seeds = _bases(rows)
    out = []
    for arm in rows.arms:
        by_base = _envelopes(rows, arm, base, len(base_seeds), at)
        columns = [t_interval(seed_means(values, base_seeds)[1]) for values in by_base.T]
        mine = results.of_arms(arm)
        out.append(
            Frontier(
                arm,
                at,
                np.array([c.estimate for c in columns]),
                np.array([c.low for c in columns]),
                np.array([c.high for c in columns]),
                np.array([c.n for c in columns]),
                mine.n_runs,
                _accurate(mine)[1],
            )
        )
    return out


def automatic_target(results: Results, share: float = 0.75) -> float | None:
    """The highest accuracy that at least `share` of the arms reach from every base they start from.

    Arms that do not beat every one of their bases learn nothing to be matched on and are not
    counted; None if no arm is left. Rounded down to 0.001, for a number that can be quoted.
    """
    rows, _ = _accurate(results)
    base = rows.base_ids
    reaches = []
    for arm in rows.arms:
        mine = rows["arm"] == arm
        units = np.unique(base[mine])
        reach = [np.max(rows["new/accuracy"][mine & (base == u)]) for u in units]
        start = [np.max(rows["new/base_accuracy"][mine & (base == u)]) for u in units]
        if np.all(np.array(reach) > np.array(start)):
            reaches.append(min(reach))
    if not reaches:
        return None
    needed = math.ceil(share * len(reaches) - 1e-9)
    return math.floor(sorted(reaches, reverse=True)[needed - 1] * 1000 + 1e-9) / 1000


def target_list(results: Results, n: int = 4) -> list[float]:
    """n accuracies evenly spaced from the mean base, not included, to the automatic target."""
    top = automatic_target(results)
    if top is None:
        return []
    start = float(np.mean(_accurate(results)[0]["new/base_accuracy"]))
    return [round(start + (top - start) * k / n, 4) for k in range(1, n)] + [top]


def matched(results: Results, target: float, *, bracket: float = BRACKET) -> list[Matched]:
    """Forgetting at the target, one entry an arm, in the order of results.arms."""
    rows, _ = _accurate(results)
    base, base_seeds = _bases(rows)
    out = []
    for arm in rows.arms:
        best = -_envelopes(rows, arm, base, len(base_seeds), np.array([target]), loss=True)[:, 0]
        mine = rows["arm"] == arm
        crossing, n_reaching = _crossings(rows.select(mine), base[mine], target, bracket)
        typical = np.full(len(base_seeds), np.nan)
        for unit in np.unique(crossing[:, 0]).astype(int):
            typical[unit] = np.mean(crossing[crossing[:, 0] == unit, 1])
        arm_rows = results.of_arms(arm)
        out.append(
            Matched(
                arm,
                target,
                t_interval(seed_means(best, base_seeds)[1]),
                t_interval(seed_means(typical, base_seeds)[1]),
                len(arm_rows.seeds),
                arm_rows.n_runs,
                n_reaching,
                n_reaching - len(crossing),
                best,
                typical,
                base_seeds,
                _accurate(arm_rows)[1],
            )
        )
    return out


def compare_arms(
    entries: Sequence[Matched], reference: str, *, reading: str = "best"
) -> list[ArmComparison]:
    """Every other arm against the reference at one target, paired over seeds and adjusted."""
    if reading not in ("best", "typical"):
        raise ValueError(f"reading must be 'best' or 'typical', got {reading!r}")
    by_arm = {entry.arm: entry for entry in entries}
    if reference not in by_arm:
        raise ValueError(f"no arm {reference!r} to compare with; there are {', '.join(by_arm)}")

    def values(entry):
        return entry.best_by_base if reading == "best" else entry.typical_by_base

    anchor = by_arm[reference]
    others = [entry for entry in entries if entry.arm != reference]
    found = [paired(values(e), values(anchor), anchor.base_seeds) for e in others]
    adjusted = adjust([comparison.p for comparison in found])
    return [
        ArmComparison(
            entry.arm,
            reference,
            entry.target,
            reading,
            comparison,
            float(p),
            decide(comparison, float(p), "less", "more"),
        )
        for entry, comparison, p in zip(others, found, adjusted, strict=True)
    ]


def decide(comparison: Comparison, p_adjusted: float, below: str, above: str) -> str:
    """The word for a difference: decided when its adjusted p is under 5 %, either way."""
    if not p_adjusted < 1 - LEVEL:  # NaN decides nothing
        return "undecided"
    return above if comparison.difference.estimate > 0 else below


def _accurate(results: Results) -> tuple[Results, int]:
    return results.finite("new/accuracy", "new/base_accuracy", "forgetting")


def _bases(rows: Results) -> tuple[np.ndarray, np.ndarray]:
    """(base of each row i64[N], seed of each base i64[U])."""
    base = rows.base_ids
    _, first = np.unique(base, return_index=True)
    return base, rows["seed"][first]


def _envelopes(
    rows: Results, arm: str, base: np.ndarray, n_bases: int, at: np.ndarray, *, loss: bool = False
) -> np.ndarray:
    """Envelopes f64[U, P] of prior accuracy, or of -forgetting, with the base as a checkpoint."""
    out = np.full((n_bases, len(at)), np.nan)
    height = -rows["forgetting"] if loss else rows["prior/accuracy"]
    start = np.zeros(len(rows)) if loss else rows["prior/base_accuracy"]
    mine = rows["arm"] == arm
    for unit in np.unique(base[mine]):
        mask = mine & (base == unit)
        new = np.concatenate([rows["new/accuracy"][mask], rows["new/base_accuracy"][mask]])
        out[unit] = envelope(new, np.concatenate([height[mask], start[mask]]), at)
    return out


def _crossings(
    rows: Results, base: np.ndarray, target: float, bracket: float
) -> tuple[np.ndarray, int]:
    """(f64[R, 2] of base and forgetting where runs first reach target, runs that reach it).

    Runs that reach it in one jump of more than `bracket` are counted but have no row.
    """
    run = np.unique(rows["run"], return_inverse=True)[1]
    order = np.lexsort((rows["step"], run))
    run, base = run[order], base[order]
    new, lost = rows["new/accuracy"][order], rows["forgetting"][order]
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    before, lost_before = np.roll(new, 1), np.roll(lost, 1)
    before[starts], lost_before[starts] = rows["new/base_accuracy"][order][starts], 0.0
    reached = np.flatnonzero(new >= target)
    at = reached[np.unique(run[reached], return_index=True)[1]]  # first reaching row of each run
    jump = new[at] - before[at]
    part = np.clip((target - before[at]) / np.where(jump > 0, jump, 1.0), 0.0, 1.0)
    value = lost_before[at] + part * (lost[at] - lost_before[at])
    smooth = jump <= bracket
    return np.stack([base[at][smooth].astype(float), value[smooth]], -1), len(at)
