"""Which runs a list of arms asks for: matched FLOPs, and nothing needed before it exists."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlrazor.methods.method import Method
from rlrazor.studies.programs import Sizes
from rlrazor.studies.study import Run
from rlrazor.studies.world import World


@dataclasses.dataclass(frozen=True)
class Start:
    """The policy of another arm that a run begins with."""

    arm: str
    share: float = 1.0  # of that arm's run


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method in a world, and one thing or another about how it is trained."""

    name: str
    method: Method
    world: World
    sizes: Sizes
    learning_rates: Sequence[float]
    variant: str = "main"
    label: str = ""  # as reports print it; "": the method's
    turns: int = 1  # answers of an episode, at most
    fixed: int = 0  # a pool of so many examples; 0: fresh ones
    start: Start | None = None
    teacher: str | None = None  # the arm whose finished run is the method's teacher
    teacher_rate: float | None = None  # which of its runs, where it has several learning rates

    @property
    def needs(self) -> tuple[str, ...]:
        """Arms whose policies it learns from or begins with."""
        start = self.start.arm if self.start else None
        return tuple(arm for arm in (self.teacher, start) if arm is not None)

    @property
    def record(self) -> dict[str, Any]:
        """All that it learns by, its world aside, as JSON has it."""
        method = self.method
        return {
            "method": method.name,
            "knobs": dict(method.knobs),
            "epochs": method.epochs,
            "average_decay": method.average_decay,
            "critic": method.critic,
            "sizes": dataclasses.asdict(self.sizes),
            "turns": self.turns,
            "fixed": self.fixed,
            "start": self.start and dataclasses.asdict(self.start),
            "teacher": self.teacher,
            **({} if self.teacher_rate is None else {"teacher_rate": self.teacher_rate}),
        }


def check_arms(arms: Sequence[Arm]) -> dict[str, Arm]:
    """The arms by name; ValueError for what would fail after hours, unclearly, or not at all."""
    by_name = {arm.name: arm for arm in arms}
    if not arms:
        raise ValueError("there is no arm; give one or more, such as methods.sft and methods.grpo")
    if len(by_name) < len(arms):
        names = [arm.name for arm in arms]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"arm {twice!r} is there twice; remove one, or name them apart")
    for arm in arms:
        if not arm.learning_rates:
            raise ValueError(f"arm {arm.name!r} has no learning rate; give one or more")
        if arm.method.reads("teacher") and arm.teacher is None:
            raise ValueError(
                f"arm {arm.name!r} learns from a teacher; name the arm whose finished run it is"
            )
        for needed in arm.needs:
            if needed not in by_name:
                raise ValueError(f"arm {arm.name!r} needs the arm {needed!r} too; add it")
            rates = by_name[needed].learning_rates
            if needed == arm.teacher and arm.teacher_rate is not None:
                if arm.teacher_rate not in rates:
                    raise ValueError(
                        f"arm {arm.name!r}: teacher_rate={arm.teacher_rate} must be one of "
                        f"{needed!r}'s learning rates, {', '.join(map(str, rates))}"
                    )
            elif len(rates) > 1:
                raise ValueError(
                    f"arm {arm.name!r} needs the policy of {needed!r}, which has "
                    f"{len(rates)} learning rates: which one is meant? Give that arm one rate, "
                    "or say which by teacher_rate"
                )
        check_sizes(arm)
    return by_name


def check_sizes(arm: Arm) -> None:
    """ValueError unless the rows of an iteration are whole minibatches of whole groups."""
    sizes = arm.sizes
    for name in ("rows", "samples", "minibatches", "rows_at_once"):
        if getattr(sizes, name) < 1:
            raise ValueError(f"arm {arm.name!r}: {name}={getattr(sizes, name)} must be at least 1")
    advantage = arm.method.advantage
    if (
        sizes.samples == 1
        and advantage is not None
        and not float(advantage(jnp.ones((1, 1)))[0, 0])
    ):
        raise ValueError(
            f"arm {arm.name!r}: samples=1 leaves an answer nothing to be compared with, and its "
            "advantage would be 0; give it 2 or more"
        )
    group = sizes.samples * sizes.minibatches
    if sizes.rows % group:
        raise ValueError(
            f"arm {arm.name!r}: rows={sizes.rows} must be a multiple of samples={sizes.samples} "
            f"times minibatches={sizes.minibatches}; try {max(sizes.rows // group, 1) * group}"
        )


def in_order(by_name: Mapping[str, Arm]) -> list[Arm]:
    """The arms as given, each behind those that it needs; ValueError for a circle."""
    done: list[Arm] = []

    def visit(arm: Arm, waiting: tuple[str, ...]) -> None:
        if arm.name in waiting:
            raise ValueError(f"arms need each other in a circle: {' -> '.join(waiting)}")
        for needed in arm.needs:
            visit(by_name[needed], (*waiting, arm.name))
        if arm not in done:
            done.append(arm)

    for arm in by_name.values():
        visit(arm, ())
    return done


def plan_runs(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    *,
    iterations: int,  # of the arm whose iteration costs `reference`
    reference: float | None,  # FLOPs; None: as many iterations for every arm
    cost: Callable[[Arm], float],  # FLOPs of an iteration
    checkpoints: Sequence[float],  # shares of a run after which it is measured
    bases: Mapping[int, tuple[str, Mapping[str, Any]]],  # of each seed: name, what sets it apart
    record: Mapping[str, Any],  # of all that is learnt beside the arms, for JSON
) -> list[Run]:
    """Every run, at the same FLOPs: cheaper iterations are more of them.

    A name ends with characters that tell all that is learnt beside arm, rate and seed: runs of
    several folders are one study's exactly where their names are alike.
    """
    by_name = check_arms(arms)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={tuple(seeds)} must be one or more, each once")
    shares = np.asarray(checkpoints, float)
    if not (len(shares) and shares.min() > 0 and shares.max() == 1):
        raise ValueError(f"checkpoints={tuple(checkpoints)} must be shares of a run up to 1")
    runs: list[Run] = []
    needed: dict[str, Run] = {}  # one of each arm so far
    for arm in in_order(by_name):  # the seeds of an arm share its compiled programs
        of_one = cost(arm)
        count = iterations
        if reference is not None:
            count = max(1, round(iterations * reference / of_one))
        before = 0.0
        if arm.teacher is not None:
            before += _flops_of(needed[arm.teacher], 1.0)
        if arm.start is not None:
            before += _flops_of(needed[arm.start.arm], arm.start.share)
        stops = {0, *np.maximum(1, np.round(shares * count)).astype(int).tolist()}
        learnt = {**record, **_learnt(arm, count, by_name)}
        told = {seed: identity_of({**learnt, "base": bases[seed][0]}) for seed in seeds}
        runs += [
            Run(
                name=f"{arm.name}-lr{rate:.3g}-s{seed}-{told[seed]}",
                arm=arm.name,
                method=arm.method.name,
                variant=arm.variant,
                family=arm.method.family,
                label=arm.label or arm.method.label,
                seed=seed,
                learning_rate=rate,
                iterations=count,
                stops=tuple(sorted(stops)),
                updates_per_iteration=arm.sizes.minibatches * arm.method.epochs,
                flops_per_iteration=of_one,
                flops_teacher=before,
                base=bases[seed][0],
                roles=arm.method.roles,
                hyperparameters={
                    "learning_rate": rate,
                    "turns": arm.turns,
                    "iterations": count,
                    **{f"base_{name}": value for name, value in bases[seed][1].items()},
                    **{f"knobs.{name}": value for name, value in arm.method.knobs.items()},
                    **dataclasses.asdict(arm.sizes),
                },
            )
            for seed in seeds
            for rate in arm.learning_rates
        ]
        needed[arm.name] = runs[-1]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"run {twice!r} is planned twice; remove the repeated learning rate")
    return runs


def _learnt(arm: Arm, iterations: int, by_name: Mapping[str, Arm]) -> dict[str, Any]:
    """What a run of the arm learns by, beside the arm's name, its rate and its seed."""
    return {
        **arm.record,
        "world": dict(arm.world.record),
        "iterations": iterations,
        "needs": {name: tuple(by_name[name].learning_rates) for name in arm.needs},
    }


def identity_of(record: Mapping[str, Any]) -> str:
    """Six characters that tell one description of what is learnt from another."""
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _flops_of(run: Run, share: float) -> float:
    """That a run's policy took at the checkpoint nearest to a share of it, from the base on."""
    return run.flops_teacher + run.stop_at(share) * run.flops_per_iteration
