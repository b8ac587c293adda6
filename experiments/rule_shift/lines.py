"""One JSON line a run and checkpoint: the only thing that analysis reads."""

import math
from typing import Any

import numpy as np

from experiments.rule_shift.arms import ARMS
from experiments.rule_shift.plan import PlannedRun
from rlrazor.tasks.procedural.pieces import TASKS as SUITES

NORMS = {
    None: None,
    "reward": None,
    "centred": "none",
    "leave_one_out": "none",
    "standardised": "std",
}


def pass_at(
    correct: np.ndarray,  # i[H] right answers among the samples of each hand
    samples: int,  # n
    k: int,
) -> float:
    """Mean of 1 - C(n - c, k) / C(n, k), the unbiased estimate of Chen et al. (arXiv 2107.03374).

    ValueError for k > n, which has no unbiased estimate.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples a hand, got {samples}")
    n = np.arange(samples + 1)
    # The product of (n - c - i) / (n - i) over i < k, for every count c at once.
    failing = np.ones(samples + 1)
    for i in range(k):
        failing *= np.clip(samples - n - i, 0, None) / (samples - i)
    return float(np.mean(1.0 - failing[np.asarray(correct)]))


def result_line(
    run: PlannedRun,
    iteration: int,
    found: dict[str, Any],
    base: dict[str, Any],
    means: dict[str, Any],
    config: Any,
    *,
    flops: dict[str, float],  # of one iteration
) -> dict[str, Any]:
    """A run at one checkpoint, beside its base on the same hands."""
    arm, sizes = ARMS[run.arm], config.measure
    numbers = {name: float(value) for name, value in found["scores"].items()}
    for name in ("new/accuracy", "ood/accuracy", "prior/accuracy"):
        numbers[name.replace("/", "/base_")] = float(base["scores"][name])
    for prefix, source in (("", found), ("base_", base)):
        for name, value in source.get("turns", {}).items():
            task, what = name.split("/")
            numbers[f"{task}/{prefix}{what}"] = float(value)
        for task, correct in source.get("repeated", {}).items():
            for k in sizes.pass_at:
                numbers[f"{task}/{prefix}pass_at_{k}"] = pass_at(correct, sizes.pass_samples, k)
    for name, (total, count) in means.items():
        numbers[f"train/{name}"] = total / count if count else math.nan
    finite = all(math.isfinite(float(value)) for value in found["scores"].values())
    return {
        "run": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "step": iteration,
        "final": iteration == run.iterations,
        "diverged": not finite,
        "hyperparameters": {
            "method": arm.method,
            "variant": arm.variant,
            "learning_rate": run.learning_rate,
            "advantage_norm": NORMS[arm.how.advantage],
            "turns": arm.setting.turns,
            "iterations": run.iterations,
        },
        "new/count": sizes.hands,
        "ood/count": sizes.hands,
        "prior/count": len(SUITES) * sizes.questions,
        **{name: iteration * value for name, value in flops.items()},
        # JSON has no NaN: what cannot be measured is null.
        **{name: v if math.isfinite(v) else None for name, v in numbers.items()},
    }
