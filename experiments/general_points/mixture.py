"""What the small base model learns from: GeneralPoints under many rules, and the prior tasks.

All rows are drawn afresh on the device, so no row is seen twice.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from tokenizers import Tokenizer

from experiments.general_points.play import LONGEST_ANSWER, closed_vocabulary
from rlrazor.ops.sequences import append, between, prompt_and_answer
from rlrazor.ops.spelling import spell
from rlrazor.runtime.tokenizer import END
from rlrazor.tasks.general_points import pieces
from rlrazor.tasks.general_points.alike import alike
from rlrazor.tasks.general_points.feedback import STUDY_SENTENCES
from rlrazor.tasks.general_points.prompts import (
    DIVERSE_TEXT,
    FROZEN_TEXT,
    TERSE_TEXT,
    load_template,
)
from rlrazor.tasks.general_points.rewards import PAPER
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER, Rule, face_values
from rlrazor.tasks.general_points.task import (
    LONGEST_BUDGET,
    GeneralPoints,
    make_general_points,
)
from rlrazor.tasks.procedural.pieces import procedural_phrases
from rlrazor.tasks.procedural.task import Procedural, make_procedural
from rlrazor.types import Vocabulary

END_ROW = np.array([END], np.int32)
HIGHEST_FACE = 13


@struct.dataclass
class Mixture:
    """Tasks stacked for `vmap`, [M] rules each."""

    points: GeneralPoints
    terse: GeneralPoints
    prior: Procedural


def small_vocabulary() -> tuple[Tokenizer, Vocabulary]:
    """One closed vocabulary for every wording, the verifier's words and the prior tasks."""
    names = (*FROZEN_TEXT, *DIVERSE_TEXT, *TERSE_TEXT)
    templates = [load_template(name, visual=False) for name in names]
    return closed_vocabulary(templates, STUDY_SENTENCES.values(), procedural_phrases())


def many_rules(count: int, seed: int) -> list[Rule]:
    """The two rules of the study and others, each a worth from 1 to 13 for J, Q and K."""
    triples = list(itertools.product(range(1, HIGHEST_FACE + 1), repeat=3))
    order = np.random.default_rng(seed).permutation(len(triples))
    known = [FACES_AS_TEN.values, FACES_IN_ORDER.values]
    drawn = [face_values(*triples[place]) for place in order]
    values = known + [one for one in drawn if one not in known]
    # A face card in every hand: the others say nothing about the rule.
    return [Rule(values=one, needs_face_card=True) for one in values[:count]]


def make_mixture(
    vocabulary: Vocabulary, rules: Sequence[Rule], prior_weights: Sequence[float]
) -> Mixture:
    """The frozen wording and two of the others for every rule, and the terse one."""

    def stacked(wordings: Any, **options: Any) -> GeneralPoints:
        tasks = [
            make_general_points(
                rule,
                vocabulary,
                templates=[load_template(name, visual=False) for name in wordings(place)],
                rewards=PAPER,
                budget=LONGEST_BUDGET,
                sentences=STUDY_SENTENCES,
                **options,
            )
            for place, rule in enumerate(rules)
        ]
        return jax.tree.map(lambda *tables: jnp.stack(tables), *alike(tasks))

    def frozen_and_two(place: int) -> list[str]:
        others = [DIVERSE_TEXT[(2 * place + i) % len(DIVERSE_TEXT)] for i in range(2)]
        return [*FROZEN_TEXT, *others]

    return Mixture(
        points=stacked(frozen_and_two),
        terse=stacked(lambda place: TERSE_TEXT, terse=True),
        prior=make_procedural(vocabulary, weights=prior_weights, part="train"),
    )


def points_row(
    task: GeneralPoints, key: jax.Array, *, failures: int
) -> tuple[jax.Array, jax.Array]:  # i32[T], bool[T] what is to be learnt
    """A dialogue: prompt, up to `failures` wrong answers with the verifier's words, a right answer.

    Only the right one is to be learnt. How many go wrong before it is drawn evenly from 0.
    """
    deal_key, count_key, wrong_key, answer_key = jax.random.split(key, 4)
    state = task.reset(deal_key)
    prompt = task.opening(state)
    wrong = jax.random.randint(count_key, (), 0, failures + 1)
    size = prompt.tokens.shape[0] + failures * task.words_size
    size += (failures + 1) * (task.demonstration_size + 1)
    row = append((jnp.zeros(size, jnp.int32), jnp.int32(0)), prompt.tokens, prompt.length)

    def fail(carry, key):
        state, row, turn = carry
        answer = task.mistaken_pieces(key, state)
        text, _ = spell(answer, *pieces.byte_table(), LONGEST_ANSWER)
        told, verdict = task.step(state, text)
        longer = append(
            append(append(row, *task.spelled(answer)), END_ROW, 1), told.words, told.words_length
        )
        happens = (turn < wrong) & ~verdict.correct  # a guess may be right by chance
        kept = jax.tree.map(lambda a, b: jnp.where(happens, a, b), (told, longer), (state, row))
        return (*kept, turn + 1), None

    wrong_keys = jax.random.split(wrong_key, failures)
    (_, row, _), _ = jax.lax.scan(fail, (state, row, jnp.int32(0)), wrong_keys)
    answered = append(append(row, *task.demonstrate(answer_key, state)), END_ROW, 1)
    return answered[0], between(row[1], answered[1], size)


def shown_row(task: GeneralPoints, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A hand with an expert's answer, then the same again: a demonstration is to be followed.

    Self-distillation (SDFT) rests on a policy that knows what to do with one.
    """
    deal_key, answer_key = jax.random.split(key)
    state = task.reset(deal_key)
    prompt = task.opening(state)
    answer, length = task.demonstrate(answer_key, state)
    size = 2 * (len(prompt.tokens) + len(answer) + 1)
    row = jnp.zeros(size, jnp.int32), jnp.int32(0)
    shown = append(append(append(row, prompt.tokens, prompt.length), answer, length), END_ROW, 1)
    asked = append(shown, prompt.tokens, prompt.length)
    answered = append(append(asked, answer, length), END_ROW, 1)
    return answered[0], between(asked[1], answered[1], size)


def prior_row(task: Procedural, key: jax.Array) -> tuple[jax.Array, jax.Array]:  # i32[T], bool[T]
    """A question of a prior task and its answer."""
    state = task.reset(key)
    said = task.opening(state)
    return prompt_and_answer(said.tokens, said.length, *task.demonstrate(None, state), end=END)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Rows of one training step; GeneralPoints' kinds are left out by a 0."""

    points: int  # of every rule, answered at once
    terse: int  # one of each of the first rules
    revised: int  # one of each of the first rules, answered after failures
    failures: int  # at most
    shown: int  # one of each of the first rules, answered as shown before
    prior: int

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0 or not self.prior:
            raise ValueError(f"rows must not be negative, those of prior tasks above 0; got {self}")


def draw_rows(
    mixture: Mixture,
    key: jax.Array,
    counts: Counts,
    place: Callable[[jax.Array], jax.Array],  # puts keys where their rows shall be drawn
) -> list[tuple[jax.Array, jax.Array]]:  # [(i32[B, T], bool[B, T])]
    """The rows of a step by kind, each kind with a length T of its own, the prior tasks' last."""
    rules = len(mixture.points.target)
    keys = [jax.random.fold_in(key, kind) for kind in range(5)]

    def of_rules(tasks, key, count, row):
        def rows(task, keys):
            return jax.vmap(lambda key: row(task, key))(keys)

        keys = jax.random.split(key, (len(tasks.target), count))
        drawn = jax.vmap(rows)(tasks, place(keys))
        return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), drawn)

    def of_first(tasks, key, count, row):
        if count > rules:
            raise ValueError(f"terse, revised and shown must be at most {rules} rules; got {count}")
        return of_rules(jax.tree.map(lambda x: x[:count], tasks), key, 1, row)

    at_once = functools.partial(points_row, failures=0)
    revised = functools.partial(points_row, failures=counts.failures)
    drawn = [
        kind(tasks, key, count, row)
        for kind, tasks, key, count, row in (
            (of_rules, mixture.points, keys[0], counts.points, at_once),
            (of_first, mixture.terse, keys[1], counts.terse, at_once),
            (of_first, mixture.points, keys[2], counts.revised, revised),
            (of_first, mixture.points, keys[3], counts.shown, shown_row),
        )
        if count
    ]
    prior_keys = place(jax.random.split(keys[4], counts.prior))
    return [*drawn, jax.vmap(lambda key: prior_row(mixture.prior, key))(prior_keys)]
