"""One JSON line a run and checkpoint: the only thing that analysis reads."""

import functools
import math
from typing import Any

import numpy as np

from experiments.parity.arms import ARMS, ON_POLICY_LOSSES
from experiments.parity.data import ParityData
from experiments.parity.plan import PlannedRun
from experiments.parity.programs import Programs


def hyperparameters(run: PlannedRun, config: Any) -> dict[str, Any]:
    """A run's place in the sweep, and which variant of its arm it is (None: no such knob)."""
    arm = ARMS[run.arm]
    on_policy = arm.loss in ON_POLICY_LOSSES
    coefficient = config.arm.kl_coefficient if on_policy else config.arm.anchor_coefficient
    return {
        "learning_rate": run.learning_rate,
        "schedule": run.schedule,
        "epochs": run.epochs,
        "base_epochs": run.base_epochs,
        "kl_coefficient": coefficient if arm.anchor else None,
        **{"advantage_norm": None, "oracle": None, **arm.knobs},
    }


def training_flops(
    arm: str,
    *,
    weights: int,  # N, weights of the matrices
    examples: int,  # prompts trained on so far
    images: int,  # of the training set
    teacher_examples: int,  # prompts on which a distilled arm's teacher was trained
) -> float:
    """FLOPs by the usual count: 6N a trained prompt, 2N a forward pass.

    Sampling costs nothing extra: the forward pass of the gradient is the one that is sampled.
    Arms that read the base's answers pay for one pass over the images, the distilled arm for its
    teacher as well.
    """
    labelling = 2 * images if ARMS[arm].reads_base else 0
    teacher = 6 * teacher_examples if ARMS[arm].teacher == "distilled" else 0
    return float(weights * (6 * examples + labelling + teacher))


def result_lines(
    block: list[PlannedRun],
    chunk: int,  # chunks trained before this one
    trained: dict[str, np.ndarray],  # f32[R] by name, see training/sweep.make_chunk
    measured: dict[str, np.ndarray],  # f32[R] by name, see parity/measure.py
    *,
    config: Any,
    programs: Programs,
    data: ParityData,
    weights: int,  # of one policy's matrices
) -> list[dict[str, Any]]:
    """The block's lines at one checkpoint; ValueError where a run diverged, if so configured."""
    step = (chunk + 1) * programs.chunk_steps
    flops = functools.partial(
        training_flops,
        weights=weights,
        examples=step * config.batch_size,
        images=len(data.new_train.labels),
        teacher_examples=config.teacher.epochs * programs.steps_per_epoch * config.batch_size,
    )
    lines = []
    for row, run in enumerate(block):
        finite = bool(trained["finite"][row])
        if not finite and config.on_divergence == "stop":
            raise ValueError(
                f"run {run.name} met a loss or weight that is not finite by step {step}; every "
                "earlier line is kept. Lower config.sweep.learning_rates.high, or set "
                "config.on_divergence='mark' to record such runs as diverged and go on "
                "(in another workdir)"
            )
        numbers = {name: float(values[row]) for name, values in measured.items()}
        numbers["train/loss"] = float(trained["loss"][row])
        numbers[f"prior/{data.prior_name}/accuracy"] = numbers["prior/accuracy"]
        lines.append(
            {
                "run": run.name,
                "arm": run.arm,
                "seed": run.seed,
                "step": step,
                "final": step == run.epochs * programs.steps_per_epoch,
                "diverged": not finite,
                "hyperparameters": hyperparameters(run, config),
                "new/count": config.test_examples,
                "prior/count": config.test_examples,
                "flops": flops(run.arm),
                # JSON has no NaN: what cannot be measured is null.
                **{k: v if math.isfinite(v) else None for k, v in numbers.items()},
            }
        )
    return lines
