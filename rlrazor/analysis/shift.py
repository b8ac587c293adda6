"""Generalization to what training never showed, as numbers with intervals over seeds.

A task is a place of the columns: `new` is the task of training, `shift/<name>` the same task under
another rule, look, ... A change is a run's success minus its base's. Runs of one arm and seed are
averaged first, so a seed counts once; a run without a finite value has no part in its seed's mean
and is counted. Budgets are equal fractions of the same FLOPs, so final checkpoints are compared at
matched compute.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import Interval, seed_means, t_interval
from rlrazor.lines import MAIN, TURNS

_OF_TURNS = re.compile(rf"{TURNS}(\d+)")


@dataclass(frozen=True)
class Shift:
    """One arm at its last checkpoint, fractions of one."""

    arm: str
    success: Mapping[str, Interval]  # task -> first answers that are right
    change: Mapping[str, Interval]  # task -> since the base
    since_start: Interval  # shift, since the run's own step 0, which may be an SFT checkpoint
    forgetting: Interval
    n_runs: int
    n_seeds: int
    n_excluded: int  # runs whose last line lacks a finite change


@dataclass(frozen=True, eq=False)
class Early:
    """The checkpoint step of an arm with the highest shifted success, chosen in hindsight."""

    step: int
    n_steps: int  # steps to choose from: those with a finite value in every seed
    seeds: np.ndarray  # i64[S]
    success: Mapping[str, np.ndarray]  # task -> f64[S]
    change: Mapping[str, np.ndarray]  # task -> f64[S]
    held_out: np.ndarray  # f64[S] under the shift, the other seeds choosing the step; else NaN
    n_runs: int


@dataclass(frozen=True)
class Budget:
    """RL with so many turns a training episode, at matched generations."""

    method: str
    arm: str  # of these turns
    turns: int
    first: Mapping[str, Interval]  # task -> change of success at the first answer
    within: Mapping[str, Interval]  # task -> change of success within that many turns
    n_runs: int
    n_seeds: int


def change(task: str) -> str:
    """The column of a task's change since the base."""
    return "gain" if task == "new" else f"{task}/change"


def by_seed(rows: Results, column: str, seeds: np.ndarray) -> np.ndarray:
    """f64[S]: mean over the finite rows of each of `seeds`; NaN where there is none."""
    out = np.full(len(seeds), np.nan)
    if column in rows and len(rows):
        names, means = seed_means(rows[column].astype(float), rows["seed"])
        asked = np.isin(names, seeds)
        out[np.searchsorted(seeds, names[asked])] = means[asked]
    return out


def final_by_seed(results: Results, arms: Sequence[str], column: str) -> np.ndarray:
    """f64[S] over results.seeds: mean over the arms present at their last checkpoints.

    NaN for a seed that one of them lacks; an arm that has no finite value at all is not present.
    """
    last, seeds = results.final(), results.seeds
    each = [by_seed(last.of_arms(arm), column, seeds) for arm in arms]
    present = [values for values in each if np.isfinite(values).any()]
    return np.mean(present, axis=0) if present else np.full(len(seeds), np.nan)


def shifts(results: Results, place: str) -> list[Shift]:
    """One entry an arm that has a last checkpoint, in the order of results.arms."""
    last, seeds = _with_start(results, place).final(), results.seeds
    columns = {task: change(task) for task in ("new", place)}
    out = []
    for arm in last.arms:
        mine = last.of_arms(arm)

        def mean(column, mine=mine):
            return t_interval(by_seed(mine, column, seeds))

        finite = [np.isfinite(mine[name]) for name in columns.values() if name in mine]
        out.append(
            Shift(
                arm,
                {task: mean(f"{task}/accuracy") for task in columns},
                {task: mean(name) for task, name in columns.items()},
                mean("since_start"),
                mean("forgetting"),
                mine.n_runs,
                len(mine.seeds),
                int(np.sum(~np.all(finite, axis=0))),
            )
        )
    return out


def early_stop(results: Results, place: str, arms: Sequence[str]) -> Early | None:
    """The best early checkpoint of these SFT arms; None where no step was tested in every seed.

    It is chosen by the very scores it is judged by, which flatters SFT: the highest of several
    noisy means is partly luck. `held_out` has no such luck.
    """
    if change(place) not in results:
        return None
    rows = results.of_arms(*arms).trained()
    seeds = rows.finite(change(place))[0].seeds
    steps = np.unique(rows["step"])
    at = {int(step): rows.select(rows["step"] == step) for step in steps}
    success = {step: by_seed(part, f"{place}/accuracy", seeds) for step, part in at.items()}
    steps = [step for step, values in success.items() if np.isfinite(values).all()]
    if not steps or not len(seeds):
        return None
    table = np.stack([success[step] for step in steps])  # f64[P, S]
    best = steps[int(np.argmax(np.mean(table, axis=1)))]
    held_out = np.full(len(seeds), np.nan)
    for i in range(len(seeds) if len(seeds) > 1 else 0):
        others = np.mean(np.delete(table, i, axis=1), axis=1)
        held_out[i] = table[int(np.argmax(others)), i]
    return Early(
        best,
        len(steps),
        seeds,
        {task: by_seed(at[best], f"{task}/accuracy", seeds) for task in ("new", place)},
        {task: by_seed(at[best], change(task), seeds) for task in ("new", place)},
        held_out,
        rows.n_runs,
    )


def turn_budgets(results: Results, place: str) -> list[Budget]:
    """By plain RL method and turns, where it was trained with more than one; main is one turn."""
    names, kinds = results["method"], results["variant"]
    rl = dict.fromkeys(names[np.isin(results["arm"], results.rl)].tolist())
    seeds, last = results.seeds, results["final"]
    turns = np.array([_turns(kind) for kind in kinds], int)
    out = []
    for method in [m for m in rl if np.any((names == m) & (turns > 1))]:
        for n in np.unique(turns[(names == method) & last & (turns > 0)]):
            rows = results.select((names == method) & (turns == n) & last)
            within = {}
            for task in ("new", place):
                own = by_seed(rows, f"{task}/success_within_{n}", seeds)
                base = by_seed(rows, f"{task}/base_success_within_{n}", seeds)
                within[task] = t_interval(own - base)
            first = {t: t_interval(by_seed(rows, change(t), seeds)) for t in ("new", place)}
            out.append(
                Budget(method, rows.arms[0], int(n), first, within, rows.n_runs, len(rows.seeds))
            )
    return out


def variant_rows(results: Results, names: Sequence[str], kinds: Sequence[str]) -> Results:
    """Rows of these variants of these methods."""
    return results.select(np.isin(results["method"], names) & np.isin(results["variant"], kinds))


def _turns(kind: str) -> int:
    """Turns of a variant: 1 of the plain one, 0 where it is about something else."""
    match = _OF_TURNS.fullmatch(kind)
    return int(match[1]) if match else int(kind == MAIN)


def _with_start(results: Results, place: str) -> Results:
    """Adds since_start f64[N]: shifted success minus that of the run's own step 0."""
    if f"{place}/accuracy" not in results:
        return results
    shifted = results[f"{place}/accuracy"]
    zero = results["step"] == 0
    start = dict(zip(results["run"][zero].tolist(), shifted[zero].tolist(), strict=True))
    starts = np.array([start.get(run, math.nan) for run in results["run"].tolist()], float)
    return Results({**results.columns, "since_start": shifted - starts})
