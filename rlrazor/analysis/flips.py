"""Where "RL forgets less" flips: RL's excess over SFT at the RL run's own new-task accuracy.

Positive excess: RL forgets more. Two yardsticks from the SFT checkpoints of the same base: the
frontier (the best SFT run in hindsight, see frontier.py) and the typical checkpoint at that
accuracy (isotonic mean curve). One RL run against SFT's best is a hard test, all the harder as
the best of many noisy scores is partly luck; against SFT's average it is a soft one that depends on
how many poor settings SFT's sweep holds. A word therefore needs both: "RL less" where RL beats even
the frontier, "RL more" where it loses even to the average, "undecided" in between or where seeds
differ.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from rlrazor.analysis.frontier import decide, envelope
from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import (
    Comparison,
    Interval,
    adjust,
    compare_with_zero,
    seed_means,
)

AXES = (
    "hyperparameters/advantage_norm",
    "hyperparameters/learning_rate",
    "hyperparameters/base_epochs",
)
LESS, MORE = "RL less", "RL more"


@dataclass(frozen=True)
class Cell:
    """RL runs that share their values on the axes; forgetting as a fraction of one."""

    values: tuple[str | float | None, ...]  # one an axis
    over_frontier: Interval  # mean excess over the SFT frontier
    over_typical: Interval  # mean excess over the typical SFT checkpoint
    p_adjusted: float  # that both yardsticks say the same; over all cells, Benjamini-Hochberg
    n_runs: int
    n_beyond_reach: int  # runs more accurate than any SFT checkpoint of their base: not compared
    word: str  # "RL less", "RL more" or "undecided"


@dataclass(frozen=True)
class FlipMap:
    """Cells by values, and what could not be placed in any."""

    axes: tuple[str, ...]  # the axes that the results have
    cells: tuple[Cell, ...]  # sorted by values, None last
    n_runs_without_sft: int  # in a cell, but no SFT run from the same base
    n_runs_unfinished: int  # no final checkpoint: in no cell
    n_excluded: int  # rows with a non-finite accuracy, RL's final or SFT's


def flip_map(
    results: Results,
    rl: Sequence[str],
    sft: Sequence[str],
    *,
    axes: Sequence[str] = AXES,  # columns; those absent are dropped. ("arm",) works too
) -> FlipMap:
    """Compares the final checkpoint of every RL run; SFT's yardsticks use all its checkpoints."""
    axes = tuple(axis for axis in axes if axis in results)
    chosen = results.select(np.isin(results["arm"], [*rl, *sft]))
    rows, n_excluded = chosen.finite("new/accuracy", "new/base_accuracy", "forgetting")
    is_rl = np.isin(rows["arm"], rl)
    n_excluded -= _unused_checkpoints(chosen, rl)
    base = rows.base_ids
    runs = rows.select(is_rl & rows["final"])
    unfinished = np.setdiff1d(
        chosen["run"][np.isin(chosen["arm"], rl)],
        chosen["run"][chosen["final"]],
    )
    over_frontier, over_typical, beyond, without = _excess(rows, base, is_rl)

    keys = [tuple(_plain(runs[axis][i]) for axis in axes) for i in range(len(runs))]
    names = sorted(set(keys), key=lambda key: [(v is None, str(type(v)), v or 0) for v in key])
    drafts = []
    for name in names:
        mask = np.array([key == name for key in keys])
        seeds = runs["seed"][mask]
        best, typical = (
            compare_with_zero(seed_means(excess[mask], seeds)[1])
            for excess in (over_frontier, over_typical)
        )
        drafts.append((name, mask, best, typical))
    adjusted = adjust([_p_both(best, typical) for _, _, best, typical in drafts])
    cells = []
    for (name, mask, best, typical), p in zip(drafts, adjusted, strict=True):
        cells.append(
            Cell(
                name,
                best.difference,
                typical.difference,
                float(p),
                int(np.sum(mask)),
                int(np.sum(beyond[mask])),
                decide(best, float(p), LESS, MORE),
            )
        )
    return FlipMap(axes, tuple(cells), int(np.sum(without)), len(unfinished), n_excluded)


def typical_curve(
    new: np.ndarray,  # f64[N] new-task accuracies of the SFT checkpoints from one base
    lost: np.ndarray,  # f64[N] their forgetting
) -> Callable[[np.ndarray], np.ndarray]:
    """Mean forgetting at a new-task accuracy, non-decreasing; NaN beyond the highest."""
    knots, index = np.unique(new, return_inverse=True)
    count = np.bincount(index)
    mean = np.bincount(index, lost) / count
    values = isotonic_regression(mean, weights=count).x
    return lambda at: np.where(at <= knots[-1], np.interp(at, knots, values), np.nan)


def _excess(rows: Results, base: np.ndarray, is_rl: np.ndarray) -> tuple[np.ndarray, ...]:
    """For each RL run's final row: excess over both yardsticks, beyond reach, without SFT."""
    chosen = is_rl & rows["final"]
    runs, unit = rows.select(chosen), base[chosen]
    frontier, typical = np.full(len(runs), np.nan), np.full(len(runs), np.nan)
    without = np.zeros(len(runs), bool)
    for u in np.unique(unit):
        mine, yard = unit == u, ~is_rl & (base == u)
        if not yard.any():
            without |= mine
            continue
        new, lost = rows["new/accuracy"][yard], rows["forgetting"][yard]
        start = rows["new/base_accuracy"][yard]  # the base is a checkpoint too: nothing forgotten
        at, mine_lost = runs["new/accuracy"][mine], runs["forgetting"][mine]
        best = envelope(
            np.concatenate([new, start]), np.concatenate([-lost, np.zeros_like(start)]), at
        )
        frontier[mine] = mine_lost + best
        typical[mine] = mine_lost - typical_curve(np.append(new, start[0]), np.append(lost, 0.0))(
            at
        )
    return frontier, typical, ~without & np.isnan(frontier), without


def _p_both(first: Comparison, second: Comparison) -> float:
    """p that the two differences have one sign: the larger of theirs, 1 where signs differ."""
    p = float(np.maximum(first.p, second.p))  # NaN where there is no test
    signs_differ = first.difference.estimate * second.difference.estimate < 0
    return 1.0 if signs_differ and not math.isnan(p) else p


def _unused_checkpoints(chosen: Results, rl: Sequence[str]) -> int:
    """Non-finite rows of RL runs before their last: they would not have been used anyway."""
    middle = chosen.select(np.isin(chosen["arm"], rl) & ~chosen["final"])
    return middle.finite("new/accuracy", "new/base_accuracy", "forgetting")[1]


def _plain(value: object) -> str | float | None:
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    number = float(value)  # type: ignore[arg-type]
    return None if math.isnan(number) else number
