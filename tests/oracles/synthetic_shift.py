"""Writes a results.jsonl of the rule-shift study whose truths are knobs.

Each run goes from the base (step 0) to its arm's end in equal steps of FLOPs; OUTCOMES says how
far: success gained under the rule of training and under the other one, KL paid and tasks
forgotten. Plain SFT first rises by `early` under the other rule and then falls to its end.
"""

import json
import math
from pathlib import Path

import numpy as np

# method -> (gain under the rule of training, change under the other rule, KL in nats)
OUTCOMES = {
    "sft": (0.45, -0.08, 9.0),
    "dft": (0.40, -0.05, 6.0),
    "psft": (0.38, -0.02, 4.0),
    "sft_kl_base_policy": (0.36, -0.01, 3.0),
    "simpo": (0.30, -0.06, 7.0),
    "dpo": (0.28, -0.07, 8.0),
    "self_sft": (0.15, 0.01, 0.8),
    "iterative_sft": (0.25, 0.02, 1.2),
    "distilled": (0.35, 0.03, 2.0),
    "on_policy_distillation": (0.34, 0.03, 1.8),
    "sdft": (0.30, 0.01, 2.2),
    "grpo": (0.35, 0.06, 1.5),
    "grpo_std": (0.36, 0.05, 1.8),
    "rloo": (0.34, 0.05, 1.6),
    "reinforce": (0.25, 0.04, 1.1),
    "dapo": (0.37, 0.06, 2.1),
    "gspo": (0.33, 0.05, 1.4),
    "ppo": (0.30, 0.04, 1.7),
    "grpo_kl": (0.28, 0.05, 0.7),
}
# (method, variant) -> what it adds to the method's gain, change and KL
EXTRAS = {
    ("sft", "reverse"): (0.0, 0.01, 0.0),
    ("grpo", "reverse"): (0.0, -0.01, 0.0),
    ("grpo", "turns_3"): (0.01, 0.01, 0.2),
    ("grpo", "turns_5"): (0.01, 0.02, 0.3),
    ("grpo", "turns_10"): (0.02, 0.05, 0.5),
    ("sft", "diverse"): (-0.02, 0.15, 0.0),
    ("grpo", "diverse"): (-0.02, 0.06, 0.0),
    ("sft", "terse"): (-0.20, -0.03, 2.0),
    ("grpo", "terse"): (-0.20, -0.04, 0.5),
    ("sft", "fixed"): (-0.05, -0.03, 8.0),
    ("grpo", "from_sft"): (0.05, 0.01, 2.0),
    ("grpo", "from_overfit"): (0.03, -0.09, 9.0),
    ("grpo", "released"): (-0.01, 0.0, 0.1),
    ("grpo", "paper"): (-0.02, 0.0, 0.1),
}
SMALL = ("sft", "dft", "simpo", "self_sft", "iterative_sft", "grpo", "grpo_std", "reinforce", "ppo")
BASE = {"new": 0.40, "ood": 0.12, "prior": 0.80}
SUITES = ("add", "subtract", "larger", "sort", "reverse", "count", "max", "copy")
KS = (1, 2, 4, 8, 16, 32, 64)
RL = ("grpo", "grpo_std", "rloo", "reinforce", "dapo", "gspo", "ppo", "grpo_kl")


def lines(
    *,
    methods: tuple[str, ...] = SMALL,
    extras: tuple[tuple[str, str], ...] = tuple(EXTRAS),
    seeds: int = 3,
    checkpoints: int = 5,
    noise: float = 0.004,
    early: float = 0.03,  # what SFT first gains under the other rule
    shift: dict[str, float] | None = None,  # method -> added to its change under the other rule
    turns: float = 1.0,  # multiplies what turns add
    tries: float = -0.05,  # pass@64 of RL minus the base's
    fake: float = 0.5,  # SFT's success by the old rule where it is told the other
    forget: dict[str, float] | None = None,  # method -> added to its forgetting
    rng_seed: int = 0,
) -> list[dict]:
    out = []
    arms = [(m, "main") for m in methods] + [e for e in extras if e[0] in methods]
    for seed in range(seeds):
        rng = np.random.default_rng([rng_seed, seed])
        base = {task: value + 0.01 * rng.standard_normal() for task, value in BASE.items()}
        for method, variant in arms:
            gain, change, kl = OUTCOMES[method]
            more = EXTRAS.get((method, variant), (0.0, 0.0, 0.0))
            factor = turns if variant.startswith("turns") else 1.0
            end = (gain + more[0], change + factor * more[1] + (shift or {}).get(method, 0.0))
            arm = method if variant == "main" else f"{method}_{variant}"
            for point in range(checkpoints + 1):
                part = point / checkpoints
                rise = early * math.sin(math.pi * min(1.0, 2 * part)) if method == "sft" else 0.0
                wave = rng.standard_normal(8) * (noise if point else 0.0)
                new = base["new"] + end[0] * (1 - math.exp(-3 * part)) / 0.95 + wave[0]
                ood = base["ood"] + end[1] * part**1.5 + rise * (part < 0.5) + wave[1]
                nats = (kl + more[2]) * part * math.exp(5 * wave[2])
                lost = 0.03 * nats + (forget or {}).get(method, 0.0) * part + wave[3]
                out.append(
                    _line(
                        (arm, method, variant, seed, point, checkpoints),
                        base,
                        (new, ood, base["prior"] - lost),
                        nats,
                        (tries if method in RL else -0.2, fake if method not in RL else 0.05),
                        wave[4:],
                    )
                )
    return out


def _line(name, base, scores, nats, truths, wave) -> dict:
    arm, method, variant, seed, point, checkpoints = name
    new, ood, prior = (float(np.clip(score, 0.0, 1.0)) for score in scores)
    ends = point in (0, checkpoints)
    part = point / checkpoints
    row = {
        "run": f"{arm}-s{seed}",
        "arm": arm,
        "seed": seed,
        "step": 40 * point,
        "final": point == checkpoints,
        "diverged": False,
        "hyperparameters": {
            "method": method,
            "variant": variant,
            "learning_rate": 1e-5,
            "turns": int(variant.removeprefix("turns_")) if "turns" in variant else 1,
            "steps_total": 40 * checkpoints,
        },
        "prior/accuracy": prior,
        "prior/base_accuracy": base["prior"],
        "prior/count": 1600,
        **{f"prior/{suite}/accuracy": prior for suite in SUITES},
        "flops": 2e15 * part,
        "flops_compiled": 2.3e15 * part,
        "ood/fake_accuracy": float(np.clip(0.05 + (truths[1] - 0.05) * part + wave[0], 0, 1)),
        "train/reward": new,
        "train/solved": new,
        "train/answer_cut": 0.01,
        "train/groups_alike": 0.3,
        "train/entropy_nats": 0.5 * (1 - 0.6 * part),
    }
    for task, score in (("new", new), ("ood", ood)):
        row |= {
            f"{task}/accuracy": score,
            f"{task}/base_accuracy": base[task],
            f"{task}/count": 1500,
            f"{task}/cards_read": float(np.clip(0.95 + 0.2 * (score - base[task]), 0, 1)),
            f"{task}/numbers_translated": float(np.clip(0.85 + 0.3 * (score - base[task]), 0, 1)),
            f"{task}/released_accuracy": score - 0.003,
        }
        for k in (1, 3, 5, 10):
            known = ends or k == 1
            row[f"{task}/success_within_{k}"] = _within(score, k) if known else None
            row[f"{task}/base_success_within_{k}"] = _within(base[task], k)
        for k in KS:
            start = _within(base[task], k**0.6)
            far = math.log2(k) / 6
            tuned = score + far * (_within(base[task], 64**0.6) + truths[0] - score) + wave[1] * far
            row[f"{task}/pass_at_{k}"] = float(np.clip(tuned, 0, 1)) if ends else None
            row[f"{task}/base_pass_at_{k}"] = start
    for place, size in (("new", 1.0), ("prior", 0.5)):
        row |= {
            f"{place}/kl_base_policy_nats": size * nats,
            f"{place}/kl_base_policy_nats_per_token": size * nats / 60,
            f"{place}/kl_policy_base_nats": 0.8 * size * nats * math.exp(20 * wave[2]),
            f"{place}/kl_policy_base_nats_per_token": 0.8 * size * nats / 60,
        }
    return row


def _within(success: float, k: float) -> float:
    return 1 - (1 - min(max(success, 0.0), 1.0)) ** k


def write(path: Path, **options) -> Path:
    """Writes lines(**options) to path and returns it."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(**options)))
    return path
