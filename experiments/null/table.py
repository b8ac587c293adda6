"""Forgetting where each direction and each method first reaches the same KL from its base."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rlrazor.analysis.equivalence import Mean, mean_of
from rlrazor.analysis.gain import FORGETTING, crossings
from rlrazor.analysis.results import Results, load_results
from rlrazor.lines import KL

RATE = "hyperparameters/learning_rate"
BINS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # nats of true KL
UNITS = "mean [95 %] over bases, their number"


@dataclasses.dataclass(frozen=True)
class Row:
    """Of one kind of direction, or of one method at one learning rate and anchor."""

    label: str
    setting: str
    at: Mapping[float, Mean]  # KL in nats -> forgetting, over bases


def rows(files: Mapping[str, Path], targets: Sequence[float]) -> list[Row]:
    """`files` are results by what is said of all their runs, such as "anchor 0.5"."""
    found = []
    for said, path in files.items():
        results = load_results(path)
        for arm in results.arms:
            mine = results.of_arms(arm)
            label = str(mine["label"][0])
            for rate in np.unique(mine[RATE]):
                part = mine.select(mine[RATE] == rate)
                told = [said] if said else []
                if rate > 0 and not arm.startswith("line_"):
                    told.append(f"rate {rate:g}")
                elif rate > 0:
                    told.append(f"of rate {rate:g}")
                at = {target: _over_bases(part, target) for target in targets}
                found.append(Row(label, ", ".join(told), at))
    return found


def _over_bases(part: Results, target: float) -> Mean:
    """Mean over bases of the mean over a base's runs, of those bases all of whose runs get there.

    Else a mean would be over the directions that happen to reach the KL.
    """
    by_seed: dict[int, list[float]] = {}
    for found in crossings(part, target, KL).values():
        for seed, crossing in found.items():
            by_seed.setdefault(seed, []).append(crossing.values[FORGETTING])
    runs = {seed: len(np.unique(part["run"][part["seed"] == seed])) for seed in part.seeds.tolist()}
    whole = [np.mean(values) for seed, values in by_seed.items() if len(values) == runs[seed]]
    return mean_of(np.array(whole)) if whole else Mean(math.nan, math.nan, 0)


def second_order(results: Results) -> list[tuple[str, str, int, float, float, float]]:
    """(task, bin of true KL, policies, ratio prediction / truth at 10, 50 and 90 %)."""
    found = []
    for task in ("new", "prior"):
        true, told = results[f"{task}/kl_base_policy_nats"], results[f"{task}/second_order_nats"]
        known = np.isfinite(true) & np.isfinite(told) & (true > 1e-6)
        for low, high in itertools.pairwise(BINS):
            inside = known & (true >= low) & (true < high)
            if inside.any():
                at = np.quantile(told[inside] / true[inside], (0.1, 0.5, 0.9))
                found.append((task, f"{low:g} to {high:g}", int(inside.sum()), *map(float, at)))
    return found


def markdown(found: Iterable[Row], targets: Sequence[float]) -> str:
    head = ["| policies | | " + " | ".join(f"{target:g} nats" for target in targets) + " |"]
    head.append("|---" * (2 + len(targets)) + "|")
    lines = [
        f"| {row.label} | {row.setting} | "
        + " | ".join(_points(row.at[target]) for target in targets)
        + " |"
        for row in found
    ]
    return "\n".join([*head, *lines])


def ratios(found: Iterable[tuple[str, str, int, float, float, float]]) -> str:
    lines = ["| inputs | true KL, nats | policies | prediction / truth: median [10, 90 %] |"]
    lines.append("|---|---|---|---|")
    lines += [
        f"| {task} | {at} | {count} | {middle:.2f} [{low:.2f}, {high:.2f}] |"
        for task, at, count, low, middle, high in found
    ]
    return "\n".join(lines)


def _points(mean: Mean) -> str:
    if not mean.n:
        return "not reached"
    return f"{mean.interval().limits(scale=100, digits=1)}, {mean.n}"
