"""Results small enough to work out by hand, without a file."""

import numpy as np

from rlrazor.analysis.legacy import METHODS
from rlrazor.analysis.results import Results
from rlrazor.lines import KL, MAIN

Path = list[tuple[float, float]]  # (new-task accuracy, forgetting) of each checkpoint


def of_runs(*runs: tuple[str, int, str, Path]) -> Results:
    """Results from (arm, seed, name, path); every base scores 0.8 and 0.7."""
    rows = [
        (f"{arm}-{seed}-{name}", arm, seed, step, step == len(path), new, lost)
        for arm, seed, name, path in runs
        for step, (new, lost) in enumerate(path, 1)
    ]
    run, arm, seed, step, final, new, lost = map(np.array, zip(*rows, strict=True))
    return Results(
        {
            "run": run,
            **_facts(arm),
            "seed": seed,
            "step": step,
            "final": final,
            "new/accuracy": new,
            "new/base_accuracy": np.full(len(rows), 0.8),
            "prior/accuracy": 0.7 - lost,
            "prior/base_accuracy": np.full(len(rows), 0.7),
            KL: lost,
        }
    )


def of_points(kl, forgetting, *, arm="sft1", seed=0) -> Results:
    """Results with the given KL and forgetting f64[N], one run a row."""
    n = len(kl)
    return Results(
        {
            "run": np.array([f"r{i}" for i in range(n)]),
            **_facts(np.full(n, arm) if isinstance(arm, str) else np.array(arm)),
            "seed": np.broadcast_to(seed, n).astype(int),
            "step": np.ones(n, int),
            "final": np.ones(n, bool),
            "new/accuracy": np.full(n, 0.9),
            "new/base_accuracy": np.full(n, 0.8),
            "prior/accuracy": 0.7 - np.asarray(forgetting, float),
            "prior/base_accuracy": np.full(n, 0.7),
            KL: np.asarray(kl, float),
        }
    )


def _facts(arm: np.ndarray) -> dict[str, np.ndarray]:
    """The text columns of arms of this project."""
    known = [METHODS[name] for name in arm.tolist()]
    return {
        "arm": arm,
        "method": arm,
        "variant": np.full(len(arm), MAIN),
        **{n: np.array([getattr(k, n) for k in known]) for n in ("family", "label", "roles")},
    }
