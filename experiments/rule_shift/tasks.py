"""The tasks of the study as values: what is trained on, and what is tested."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from experiments.general_points.mixture import many_rules
from experiments.rule_shift.arms import Variant
from rlrazor.tasks.general_points.alike import alike
from rlrazor.tasks.general_points.feedback import STUDY_SENTENCES
from rlrazor.tasks.general_points.prompts import (
    DIVERSE_TEXT,
    FROZEN_TEXT,
    TERSE_TEXT,
    load_template,
)
from rlrazor.tasks.general_points.released import Refusals, find_refusals
from rlrazor.tasks.general_points.rewards import BINARY, PAPER, RewardTable
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER, Rule
from rlrazor.tasks.general_points.task import GeneralPoints, make_general_points
from rlrazor.tasks.procedural.pieces import TASKS as SUITES
from rlrazor.tasks.procedural.task import Procedural, make_procedural
from rlrazor.types import Vocabulary

TURNS = 10  # the budget of a test; how many turns are played is the player's choice
REWARDS: dict[str, RewardTable] = {"binary": BINARY, "paper": PAPER}


@struct.dataclass
class Tests:
    """What a policy is measured on. The last three judge the same answers as the first two."""

    new: GeneralPoints
    ood: GeneralPoints
    fake: GeneralPoints  # prompts and deals as in `ood`, judged by the training rule
    new_released: GeneralPoints
    ood_released: GeneralPoints
    prior: Procedural  # [S] suites


def rule_pair(direction: str) -> tuple[Rule, Rule]:
    """The rule of training, and that of the test: each of its hands holds a face card."""
    rules = (FACES_AS_TEN, FACES_IN_ORDER)
    train, test = rules if direction == "paper" else rules[::-1]
    return train, dataclasses.replace(test, needs_face_card=True)


def rewards_of(name: str, rule: Rule) -> RewardTable | Refusals:
    """A table of rewards by name; "released" is that of the paper's public code for the rule."""
    if name == "released":
        return find_refusals(rule)
    if name not in REWARDS:
        raise ValueError(f"rewards={name!r} must be released, {' or '.join(REWARDS)}")
    return REWARDS[name]


def training_tasks(
    variant: Variant, vocabulary: Vocabulary, *, rules: int, seed: int
) -> GeneralPoints:  # leaves [M, ...]
    """The tasks that a run's steps draw from, one or, if diverse, one a rule."""
    train, test = rule_pair(variant.direction)
    wordings, chosen = FROZEN_TEXT, [train]
    if variant.terse:
        wordings = TERSE_TEXT
    if variant.diverse:
        wordings = (*FROZEN_TEXT, *DIVERSE_TEXT)
        values = [rule.values for rule in many_rules(rules + 2, seed)]
        others = [Rule(v) for v in values if v not in (train.values, test.values)]
        chosen = [train, *others][:rules]
    tasks = [
        make_general_points(
            rule,
            vocabulary,
            templates=[load_template(name, visual=False) for name in wordings],
            rewards=rewards_of(variant.rewards, rule),
            budget=variant.turns,
            sentences=STUDY_SENTENCES,
            terse=variant.terse,
        )
        for rule in chosen
    ]
    return jax.tree.map(lambda *tables: jnp.stack(tables), *alike(tasks))


def make_tests(variant: Variant, vocabulary: Vocabulary) -> Tests:
    """Prompts of the tests are worded as in frozen (or terse) training."""
    train, test = rule_pair(variant.direction)
    names: Sequence[str] = TERSE_TEXT if variant.terse else FROZEN_TEXT
    templates = [load_template(name, visual=False) for name in names]
    judged_as = dataclasses.replace(train, needs_face_card=True)

    def task(rule: Rule, rewards, **options) -> GeneralPoints:
        return make_general_points(
            rule,
            vocabulary,
            templates=templates,
            rewards=rewards,
            budget=TURNS,
            sentences=STUDY_SENTENCES,
            **options,
        )

    new, ood, fake = alike(
        [task(train, BINARY), task(test, BINARY), task(judged_as, BINARY, stated=test)]
    )
    new_released, ood_released = alike([task(rule, find_refusals(rule)) for rule in (train, test)])
    suites = [
        make_procedural(vocabulary, weights=row, part="held_out") for row in np.eye(len(SUITES))
    ]
    prior = jax.tree.map(lambda *tables: jnp.stack(tables), *suites)
    return Tests(new, ood, fake, new_released, ood_released, prior)
