"""Results small enough to work out by hand, without a file."""

import numpy as np

from rlrazor.analysis.results import KL, Results

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
            "arm": arm,
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
            "arm": np.full(n, arm) if isinstance(arm, str) else np.array(arm),
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
