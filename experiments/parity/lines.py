"""What the lines of a run say of it, whatever was measured: its place in the sweep, its FLOPs."""

from typing import Any, NamedTuple

from experiments.parity.arms import ARMS, ON_POLICY_LOSSES
from experiments.parity.plan import SweepRun
from rlrazor.studies.study import Run


def study_run(
    run: SweepRun,
    config: Any,
    *,
    steps: int,  # from one checkpoint to the next: an iteration of the study
    weights: int,  # N, weights of one policy's matrices
    images: int,  # of the training set
) -> Run:
    """A run of the sweep as the loop and the lines know it."""
    arm = ARMS[run.arm]
    iterations = run.epochs * config.checkpoints_per_epoch
    teacher = config.teacher.epochs * config.checkpoints_per_epoch * steps * config.batch_size
    flops = training_flops(
        run.arm,
        weights=weights,
        examples=steps * config.batch_size,
        images=images,
        teacher_examples=teacher,
    )
    return Run(
        name=run.name,
        arm=run.arm,
        method=run.arm,
        variant="main",
        family=arm.family,
        label=arm.label,
        roles=arm.roles,
        seed=run.seed,
        learning_rate=run.learning_rate,
        iterations=iterations,
        stops=tuple(range(1, iterations + 1)),
        updates_per_iteration=steps,
        steps_per_iteration=steps,
        flops_per_iteration=flops.an_iteration,
        flops_before=flops.before,
        flops_teacher=flops.teacher,
        hyperparameters=hyperparameters(run, config),
    )


def hyperparameters(run: SweepRun, config: Any) -> dict[str, Any]:
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


class Flops(NamedTuple):
    an_iteration: float
    before: float  # what is paid once
    teacher: float  # for its training


def training_flops(
    arm: str,
    *,
    weights: int,  # N, weights of the matrices
    examples: int,  # prompts trained on in an iteration
    images: int,  # of the training set
    teacher_examples: int,  # prompts on which a distilled arm's teacher was trained
) -> Flops:
    """FLOPs by the usual count: 6N a trained prompt, 2N a forward pass.

    Sampling costs nothing extra: the forward pass of the gradient is the one that is sampled.
    Arms that read the base's answers pay for one pass over the images, the distilled arm for its
    teacher as well.
    """
    labelled = images if ARMS[arm].reads_base else 0
    taught = teacher_examples if ARMS[arm].teacher == "distilled" else 0
    return Flops(*(float(weights * n) for n in (6 * examples, 2 * labelled, 6 * taught)))
