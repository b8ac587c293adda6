"""What the rule-shift study trains on and measures, for whoever speaks with a vocabulary."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.rule_shift.arms import Variant
from experiments.rule_shift.tasks import Tests, make_tests, training_tasks
from rlrazor.ops.spelling import spell
from rlrazor.policies.language import LanguagePolicy
from rlrazor.sampling.episodes import Rollout
from rlrazor.studies import measurements as measure
from rlrazor.studies.device import OnDevice, itself
from rlrazor.studies.world import World
from rlrazor.tasks.general_points.released import CORRECT
from rlrazor.tasks.procedural.pieces import TASKS as SUITES
from rlrazor.types import Vocabulary

PRIOR_ANSWER = 12  # tokens of the small base; the longest right answer has eleven


@dataclasses.dataclass(frozen=True)
class Speech:
    """How a base speaks: the words that tasks are written in, and what ends an answer."""

    vocabulary: Vocabulary
    end: int
    formula_token: int | None  # what stands before the formula of an answer; None: several tokens


def points_columns(policy: LanguagePolicy) -> measure.OfRollout:
    """Of first answers: success by several judges, and how cards and their worth were read."""

    def columns(rollout: Rollout, judges: Mapping[str, Any]) -> Mapping[str, jax.Array]:
        failures = {name: flag[:, 0] for name, flag in rollout.verdict.failures.items()}
        formed = ~(failures["no_object"] | failures["malformed_field"])
        found = {
            **measure.of_first_answers(rollout, judges),
            "cards_read": formed & ~failures["cards_misread"],
            "numbers_translated": formed & ~failures["numbers_mistranslated"],
        }
        places = rollout.answer_start[:, :1] + jnp.arange(policy.answer_tokens)[None]
        places = jnp.minimum(places, rollout.tokens.shape[1] - 1)
        answers = jnp.take_along_axis(rollout.tokens, places, axis=1)
        lengths = jnp.sum(rollout.chosen, axis=1)
        text = jax.vmap(
            lambda t, n: spell(t, *policy.answers.spelling, policy.answers.bytes, n)[0]
        )(answers, lengths)
        for name, judge in judges.items():
            verdict = measure.judged_alike(judge, rollout, text)
            right = verdict.reward == CORRECT if name == "released" else verdict.correct
            found[f"{name}_accuracy"] = right
        return found

    return columns


def make_world(
    variant: Variant, speech: Speech, policy: LanguagePolicy, sizes: Any, *, rules: int
) -> World:
    """Trains under one rule; measured under both, on eight prior tasks, and by KL.

    `sizes` is config.measure.
    """
    tests = make_tests(variant, speech.vocabulary)
    tasks = training_tasks(variant, speech.vocabulary, rules=rules, seed=0)
    short = answering(policy, min(policy.answer_tokens, sizes.prior_answer_tokens))
    return World(
        train=OnDevice(tasks, expert=itself, end=speech.end, anchors=tests.prior),
        measurements=[
            *_under(tests, policy, sizes),
            measure.suites(
                short, SUITES, tests.prior, examples=sizes.questions, at_once=sizes.at_once
            ),
            *_distances(tests, policy, short, sizes),
        ],
    )


def answering(policy: LanguagePolicy, tokens: int) -> LanguagePolicy:
    """The policy with shorter answers."""
    size = policy.answers.bytes * tokens // policy.answers.tokens
    answers = dataclasses.replace(policy.answers, tokens=tokens, bytes=size)
    return dataclasses.replace(policy, answers=answers)


def _under(tests: Tests, policy: LanguagePolicy, sizes: Any) -> list[measure.Measurement]:
    """Success under the rule of training and under the other."""
    rules = {
        "new": (tests.new, {"released": tests.new_released}),
        "shift/rule": (tests.ood, {"released": tests.ood_released, "fake": tests.fake}),
    }
    found = []
    for prefix, (task, judges) in rules.items():
        found += [
            measure.success(
                policy, prefix, task,
                examples=sizes.hands, at_once=sizes.at_once, columns=points_columns(policy),
                judges=judges,
            ),
            measure.within_turns(
                policy, prefix, task,
                examples=sizes.turn_hands, at_once=sizes.at_once, turns=sizes.turns,
                when="last", arms=tuple(sizes.turn_arms),
            ),
            measure.passes(
                policy, prefix, task,
                examples=sizes.pass_hands, samples=sizes.pass_samples, at_once=sizes.at_once,
                ks=sizes.pass_at, when="last", arms=tuple(sizes.pass_arms),
            ),
        ]  # fmt: skip
    return found


def _distances(
    tests: Tests, policy: LanguagePolicy, short: LanguagePolicy, sizes: Any
) -> list[measure.Measurement]:
    one = jax.tree.map(lambda leaf: leaf[None], tests.new)
    how = {"at_once": sizes.at_once, "rows_at_once": sizes.rows_at_once}
    return [
        measure.divergence(policy, "new", one, examples=sizes.kl_prompts, **how),
        measure.divergence(
            short, "prior", tests.prior,
            examples=sizes.kl_prompts, part=measure.PRIOR_SAMPLES, own=False, **how,
        ),
    ]  # fmt: skip
