"""Writes a contract-conformant results.jsonl whose law, frontiers and flip are known.

Every run walks in "drive" d = learning rate x progress. Of each arm: KL(base||policy) = rate x d,
forgetting = LAW(KL) + noise (with `offsets` an arm leaves the curve), and new-task accuracy
saturates in d. So an arm with a smaller rate pays less KL, hence less forgetting, for the same
accuracy: RL less than SFT by construction, unless `std_rate` makes grpo_std flip.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

RATES = {  # KL paid per unit of drive
    "sft1": 1.0,
    "sft2": 0.8,
    "oracle": 0.15,
    "oracle_soft": 0.12,
    "grpo": 0.3,
    "grpo_std": 0.35,
    "grpo_kl": 0.25,
    "reinforce": 0.32,
    "simpo": 0.9,
    "distilled": 0.3,
    "self_sft": 0.35,
    "iterative_sft": 0.3,
    "dft": 0.7,
    "sft_kl_base_policy": 0.5,
    "sft_kl_policy_base": 0.5,
}
NORM = {"grpo": "none", "grpo_std": "std", "grpo_kl": "none"}
BASE_NEW, BASE_PRIOR, TOP_NEW = 0.80, 0.70, 0.98


def law(kl: np.ndarray) -> np.ndarray:
    """True forgetting at KL, increasing up to 13 nats."""
    return 0.08 * kl - 0.003 * kl**2


def lines(
    *,
    arms: tuple[str, ...] = tuple(RATES),
    seeds: int = 5,
    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 3e-4, 1e-3),
    base_epochs: tuple[int, ...] = (5,),
    checkpoints: int = 5,
    noise: float = 0.01,
    seed_noise: float = 0.0,  # spread of the law's slope between seeds
    std_rate: float | None = None,  # KL rate of grpo_std; 2.0 makes it forget more than SFT
    offsets: Mapping[str, float] | None = None,  # added to an arm's forgetting, off the curve
    rng_seed: int = 0,
) -> list[dict]:
    rates = dict(RATES) if std_rate is None else RATES | {"grpo_std": std_rate}
    out = []
    for seed in range(seeds):
        rng = np.random.default_rng([rng_seed, seed])
        slope = 1 + seed_noise * rng.standard_normal()
        jitter = 0.01 * rng.standard_normal(2)
        for base in base_epochs:
            new_base, prior_base = BASE_NEW + jitter[0], BASE_PRIOR + jitter[1] + 0.002 * base
            for arm in arms:
                for rate in learning_rates:
                    for schedule in ("constant", "cosine"):
                        run = f"{arm}-s{seed}-b{base}-lr{rate:g}-{schedule}"
                        for point in range(1, checkpoints + 1):
                            drive = 4 * (rate / 1e-3) ** 0.5 * point / checkpoints
                            drive *= 0.7 if schedule == "cosine" else 1.0
                            kl = rates[arm] * drive
                            lost = slope * law(np.asarray(kl)) + noise * rng.standard_normal()
                            lost += (offsets or {}).get(arm, 0.0)
                            gain = (TOP_NEW - BASE_NEW) * (1 - np.exp(-1.5 * drive))
                            out.append(
                                _line(
                                    run, arm, seed, point, checkpoints, rate, schedule, base,
                                    (new_base, new_base + gain, prior_base, prior_base - lost),
                                    kl, rng,
                                )
                            )  # fmt: skip
    return out


def _line(run, arm, seed, point, checkpoints, rate, schedule, base, accuracy, kl, rng) -> dict:
    new_base, new, prior_base, prior = (float(np.clip(a, 0, 1)) for a in accuracy)

    def noisy(value, spread):
        return float(value * np.exp(spread * rng.standard_normal()))

    def changes(spread):
        return {
            "kl_base_policy_nats": noisy(kl, spread),
            "kl_policy_base_nats": noisy(0.8 * kl, spread + 0.1),
            "total_variation": noisy(1 - np.exp(-kl), spread + 0.1),
            "l2_distance": noisy(np.sqrt(kl), spread + 0.2),
            "activation_l1": noisy(kl, spread + 0.5),
            "activation_l2": noisy(kl, spread + 0.5),
            "cka": float(np.exp(-0.2 * noisy(kl, spread + 0.3))),
            "cknna": float(np.exp(-0.3 * noisy(kl, spread + 0.3))),
        }

    return {
        "run": run,
        "arm": arm,
        "seed": seed,
        "step": 100 * point,
        "final": point == checkpoints,
        "hyperparameters": {
            "learning_rate": rate,
            "schedule": schedule,
            "epochs": 1,
            "advantage_norm": NORM.get(arm),
            "oracle": {"oracle": "sampled", "oracle_soft": "soft"}.get(arm),
            "kl_coefficient": 0.1 if "kl" in arm else None,
            "base_epochs": base,
        },
        "new/accuracy": new,
        "new/base_accuracy": new_base,
        "new/count": 1000,
        "prior/accuracy": prior,
        "prior/base_accuracy": prior_base,
        "prior/count": 1000,
        "prior/fashion_mnist/accuracy": prior,
        **{f"new/{name}": value for name, value in changes(0.0).items()},
        **{f"prior/{name}": value for name, value in changes(0.05).items()},
        "weights/l1": noisy(100 * rate**0.5 * point, 0.8),
        "weights/l2": noisy(10 * rate**0.5 * point, 0.6),
        "weights/fisher_l2": noisy(kl, 0.6),
        "weights/spectral_norm": noisy(kl, 0.6),
        "weights/rank": 256.0,
        "weights/sparsity": 0.0,
        "flops": 1e9 * point,
    }


def write(path: Path, **options) -> Path:
    """Writes lines(**options) to path and returns it."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(**options)))
    return path
