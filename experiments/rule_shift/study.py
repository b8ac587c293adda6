"""The rule-shift study: its arms from a config, in their worlds, from one base."""

import functools
from typing import Any

from experiments.rule_shift.arms import Named, read_name
from experiments.rule_shift.base import Spoken
from experiments.rule_shift.tasks import TURNS
from experiments.rule_shift.world import make_world
from rlrazor.methods import methods
from rlrazor.methods.method import Method
from rlrazor.studies.flops import flops_per_iteration
from rlrazor.studies.language import LanguageStudy, Settings
from rlrazor.studies.plan import Arm, Start
from rlrazor.studies.programs import Optimization, Setup, Sizes
from rlrazor.studies.world import World
from rlrazor.tasks.procedural.pieces import TASKS as SUITES

# Config fields that say how a study runs and leave every number as it is.
OPERATIONAL = ("checkpoint_every_seconds", "mesh", "side_by_side", "tensorboard")
COUNTS = (
    "rows", "rows_at_once", "side_by_side", "samples", "minibatches", "iterations", "fixed_hands",
    "diverse_rules", "answer_tokens",
    "measure.hands", "measure.questions", "measure.kl_prompts", "measure.turn_hands",
    "measure.pass_hands", "measure.pass_samples", "measure.at_once", "measure.rows_at_once",
)  # fmt: skip


def make_study(config: Any, spoken: Spoken) -> LanguageStudy:
    """Everything that may be mistaken in a config is found here, before anything is learnt."""
    check_config(config)
    optimization = Optimization(**config.optimizer)

    @functools.cache
    def world(direction: str, name: str) -> World:
        variant = read_name(name).setting
        return make_world(
            variant, spoken.speech, spoken.policy, config.measure, rules=config.diverse_rules
        )

    def arm(name: str) -> Arm:
        named = read_name(name)
        setting = named.setting
        start = None if setting.start is None else Start(*setting.start)
        return Arm(
            name=name,
            method=tuned(named.method, spoken, config),
            world=world(setting.direction, _alike(named)),
            sizes=sizes_of(named, config),
            learning_rates=rates_of(named, config),
            variant=named.variant,
            label=named.label,
            turns=setting.turns,
            fixed=config.fixed_hands if setting.fixed else 0,
            start=start,
            teacher=named.teacher,
            teacher_rate=(config.teacher_rate or None) if named.teacher else None,
        )

    arms = [arm(name) for name in config.arms]
    # Every arm gets the FLOPs of so many iterations of GRPO.
    grpo = Named(methods.grpo)
    setup = Setup(spoken.policy, grpo.method, sizes_of(grpo, config), optimization)
    main = world("paper", "grpo")
    reference = flops_per_iteration(
        setup, weights=spoken.weights, tokens=main.train.row_tokens(setup)
    )
    settings = Settings(
        study=config.study,
        optimization=optimization,
        checkpoints=tuple(config.checkpoints),
        reference_flops=reference,
        side_by_side=config.side_by_side,
        record={name: config[name] for name in ("diverse_rules", "fixed_hands", "lora")},
    )
    return LanguageStudy(
        spoken.base, main, arms, seeds=tuple(config.seeds), steps=config.iterations,
        settings=settings,
    )  # fmt: skip


def _alike(named: Named) -> str:
    """One name for all arms that share a world, so that its programs are compiled once."""
    return Named(methods.grpo, named.variant).name


def tuned(method: Method, spoken: Spoken, config: Any) -> Method:
    """With the knobs that the config changes, and what only the base's words can tell."""
    changes = config.methods.to_dict().get(method.name, {})
    if "answer_token" in method.knobs:
        changes["answer_token"] = spoken.speech.formula_token
    return method.tuned(**changes)


def sizes_of(named: Named, config: Any) -> Sizes:
    """As many rows for every method; fewer episodes where they are longer.

    A group is read whole, so that its prompt is read once.
    """
    rows, samples = config.rows, 1
    if not named.method.imitates:
        samples = config.samples
    group = samples * config.minibatches
    rows = max(rows // named.setting.turns // group, 1) * group
    return Sizes(rows, samples, config.minibatches, max(config.rows_at_once, samples))


def rates_of(named: Named, config: Any) -> tuple[float, ...]:
    """Those that the config has for the arm, or else for its method."""
    rates = config.learning_rates
    if named.name in rates:
        return tuple(rates[named.name])
    if named.method.name not in rates:
        raise ValueError(f"config.learning_rates lacks {named.method.name!r}; add one or more")
    return tuple(named.setting.slowed * rate for rate in rates[named.method.name])


def check_config(config: Any) -> None:
    """Refuses what would otherwise fail after hours of work, unclearly, or not at all."""
    for field in COUNTS:
        section, _, name = field.rpartition(".")
        value = (config[section] if section else config)[name]
        if value < 1:
            raise ValueError(f"config.{field}={value} must be at least 1")
    if config.rows % (config.minibatches * config.samples):
        raise ValueError(
            f"config.rows={config.rows} must be a multiple of config.samples={config.samples} "
            f"times config.minibatches={config.minibatches}"
        )
    if config.temperature <= 0:
        raise ValueError(f"config.temperature={config.temperature} must be above 0")
    for name in config.methods:
        methods.named(name)
    sizes = config.measure
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
            read_name(arm)
