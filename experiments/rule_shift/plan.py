"""Which runs a config asks for, in an order in which nothing is needed before it exists."""

import dataclasses
from typing import Any

import numpy as np

from experiments.rule_shift.arms import ARMS, Arm
from experiments.rule_shift.flops import flops_per_iteration
from experiments.rule_shift.tasks import TURNS
from rlrazor.tasks.procedural.pieces import TASKS as SUITES


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    arm: str
    seed: int
    learning_rate: float
    iterations: int  # of the whole run
    checkpoints: tuple[int, ...]  # iterations after which it is measured, 0 and the last included

    @property
    def name(self) -> str:
        return f"{self.arm}-lr{self.learning_rate:.3g}-s{self.seed}"

    def checkpoint_at(self, share: float) -> int:
        """The iteration of the checkpoint nearest to a share of the run; never the untrained."""
        return min(self.checkpoints[1:], key=lambda i: abs(i - share * self.iterations))


COUNTS = (
    "rows", "rows_at_once", "samples", "minibatches", "fixed_hands", "diverse_rules",
    "answer_tokens",
    "measure.hands", "measure.questions", "measure.kl_prompts", "measure.turn_hands",
    "measure.pass_hands", "measure.pass_samples",
)  # fmt: skip


def check_config(config: Any) -> None:
    """Refuses what would otherwise fail after hours of work, unclearly, or not at all."""
    for field in COUNTS:
        section, _, name = field.rpartition(".")
        value = (config[section] if section else config)[name]
        if value < 1:
            raise ValueError(f"config.{field}={value} must be at least 1")
    if config.rows % config.minibatches or config.rows % config.samples:
        raise ValueError(
            f"config.rows={config.rows} must be a multiple of config.minibatches="
            f"{config.minibatches} and of config.samples={config.samples}"
        )
    if config.iterations < 1 or config.temperature <= 0:
        raise ValueError(
            f"config.iterations={config.iterations} must be at least 1 and config.temperature="
            f"{config.temperature} above 0"
        )
    if not 0 < min(config.checkpoints) <= max(config.checkpoints) == 1:
        raise ValueError(
            f"config.checkpoints={config.checkpoints} must be shares of the budget that end with 1"
        )
    _check_arms(config)
    _check_measure(config.measure)


def _check_arms(config: Any) -> None:
    if len(set(config.arms)) < len(config.arms) or not config.arms or not config.seeds:
        raise ValueError(f"config.arms and config.seeds need entries, none twice: {config.arms}")
    for name in config.arms:
        if name not in ARMS:
            raise ValueError(f"config.arms holds {name!r}; allowed: {', '.join(sorted(ARMS))}")
        arm = ARMS[name]
        for needed in arm.needs:
            if needed not in config.arms:
                raise ValueError(f"arm {name!r} needs {needed!r} too; add it to config.arms")
        if not rates_of(arm, config):
            raise ValueError(f"config.learning_rates lacks {arm.method!r}; add one or more")
        if arm.how.objective == "sdft" and arm.setting.turns > 1:
            raise ValueError(
                f"arm {name!r}: SDFT shows a demonstration of one answer, not of several"
            )


def _check_measure(sizes: Any) -> None:
    if sizes.kl_prompts < len(SUITES):
        raise ValueError(
            f"config.measure.kl_prompts={sizes.kl_prompts} must be at least {len(SUITES)}, one for "
            "each prior task"
        )
    if max(sizes.pass_at) > sizes.pass_samples:
        raise ValueError(
            f"config.measure.pass_at={sizes.pass_at} needs that many config.measure.pass_samples, "
            f"got {sizes.pass_samples}"
        )
    if not 1 <= min(sizes.turns) <= max(sizes.turns) <= TURNS:
        raise ValueError(f"config.measure.turns={sizes.turns} must lie between 1 and {TURNS}")
    for field in ("turn_arms", "pass_arms"):
        for arm in sizes[field]:
            if arm not in ARMS:
                raise ValueError(
                    f"config.measure.{field} holds {arm!r}; allowed: {', '.join(sorted(ARMS))}"
                )


def in_order(arms: tuple[str, ...]) -> list[str]:
    """The arms as given, each behind those that it needs."""
    done: list[str] = []

    def visit(arm: str) -> None:
        for needed in ARMS[arm].needs:
            visit(needed)
        if arm not in done:
            done.append(arm)

    for arm in arms:
        visit(arm)
    return done


def rates_of(arm: Arm, config: Any) -> list[float]:
    """Those that the config has for the arm, or else for its method."""
    own = config.learning_rates.get(arm.name, ())
    return list(own) or [
        arm.setting.slowed * rate for rate in config.learning_rates.get(arm.method, ())
    ]


def plan_runs(config: Any, *, weights: int, tokens: dict[str, int]) -> list[PlannedRun]:
    """Every run, at the same FLOPs by the paper's formula: cheaper iterations are more of them.

    `tokens[arm]` counts those of a row. The budget is that of `config.iterations` of GRPO.
    """
    check_config(config)
    reference = flops_per_iteration(Arm("grpo"), config, weights=weights, tokens=tokens["grpo"])
    runs = []
    for seed in config.seeds:
        for name in in_order(tuple(config.arms)):
            arm = ARMS[name]
            cost = flops_per_iteration(arm, config, weights=weights, tokens=tokens[name])
            iterations = max(1, round(config.iterations * reference / cost))
            shares = np.asarray(config.checkpoints, float)
            places = sorted({0, *np.maximum(1, np.round(shares * iterations)).astype(int).tolist()})
            runs += [
                PlannedRun(name, seed, rate, iterations, tuple(places))
                for rate in rates_of(arm, config)
            ]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError("the config plans a run twice; remove the repeated seed or rate")
    return runs
