"""Padding gives tasks one shape and changes nothing that they do."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.tasks.general_points.alike import alike
from rlrazor.tasks.general_points.feedback import SENTENCES
from rlrazor.tasks.general_points.released import Refusals
from rlrazor.tasks.general_points.rewards import BINARY, PAPER
from rlrazor.tasks.general_points.rule import FACES_IN_ORDER, Rule
from tests.oracles import tiny_points
from tests.oracles.tiny_points import AS_TEN, IN_ORDER, make

KEYS = jax.random.split(jax.random.key(0), 8)
LONGER = {**SENTENCES, "wrong_value": 5 * SENTENCES["wrong_value"]}
FOUR_SEEN = {"visual": True, "refusals": True}
OUT = dataclasses.replace(IN_ORDER, target=120, needs_face_card=True)


@functools.cache
def tasks():
    """Trained under one rule with many wordings; tested under another with the first of them."""
    return make(AS_TEN), dataclasses.replace(make(OUT, wordings=1, budget=2), rewards=BINARY)


def transcript(task, rule):
    """All that a task says and decides in a few games, as text and numbers."""
    states = tiny_points.resets(task, KEYS)
    answers, lengths = tiny_points.demonstrate(task, KEYS, states)
    shown = [tiny_points.decoded(*row) for row in zip(answers, lengths, strict=True)]
    said = []
    for turn in range(3):
        asked = tiny_points.observes(task, states)
        said += [tiny_points.decoded(*row) for row in zip(asked.tokens, asked.length, strict=True)]
        wrong = [
            tiny_points.answer("1+1" if i % 2 else "2-", hand, rule)
            if turn == 0
            else text.replace("+", "-")
            for i, (hand, text) in enumerate(zip(states.hand.ranks.tolist(), shown, strict=True))
        ]
        texts = shown if turn == 2 else wrong
        states, verdicts = tiny_points.steps(task, states, tiny_points.as_bytes(*texts))
        said.append(jax.tree.map(lambda x: np.asarray(x).tolist(), verdicts))
    said.append(jax.tree.map(lambda x: np.asarray(x).tolist(), (states.hand, states.truncated)))
    return shown, said


def test_padding_changes_nothing_but_shapes():
    same = alike(tasks())
    for task, padded, rule in zip(tasks(), same, (AS_TEN, OUT), strict=True):
        assert transcript(padded, rule) == transcript(task, rule)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), task) for task in same]
    assert jax.tree.structure(same[0]) == jax.tree.structure(same[1])
    assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])
    before = [jax.tree.map(jnp.shape, task) for task in tasks()]
    assert jax.tree.leaves(before[0]) != jax.tree.leaves(before[1])


def test_longer_sentences_make_room_for_all():
    longer = tiny_points.make_general_points(
        OUT,
        tiny_points.vocabulary(),
        templates=tiny_points.templates(wordings=1),
        rewards=PAPER,
        budget=2,
        sentences={**SENTENCES, "wrong_value": 5 * SENTENCES["wrong_value"]},
    )
    task = tasks()[0]
    assert longer.words_size > task.words_size
    padded = alike([task, longer])[0]
    assert padded.words_size == longer.words_size == padded.feedback.tokens.shape[1]
    state = tiny_points.start(padded, (2, 3, 4))
    assert state.words.shape == (longer.words_size,)
    for row, name in enumerate(SENTENCES, start=1):
        said = tiny_points.decoded(padded.feedback.tokens[row], padded.feedback.lengths[row])
        assert said == f"\n{SENTENCES[name]}\n"


def test_one_program_runs_them_all():
    chex.clear_trace_counter()

    @tiny_points.jit
    @chex.assert_max_traces(n=1)
    def play(task, key, answer):
        state = task.reset(key)
        first = task.opening(state)
        shown = task.demonstrate(key, state, jnp.ones(3, jnp.int32))
        return first, shown, task.step(state, answer)

    for task in alike(tasks()):
        for key in KEYS[:2]:
            play(task, key, tiny_points.as_bytes("{}")[0])


def words(task):
    assert isinstance(task.rewards, Refusals)
    return task.rewards.words


def test_refusals_are_padded_with_what_no_formula_is():
    """All zero words are a formula too: 0+(0+(0+0)), and it is right here."""
    zeros = Rule(values=(0,) * 13, target=0)
    some = make(FACES_IN_ORDER, **FOUR_SEEN)
    none = make(zeros, **FOUR_SEEN)
    assert words(none).shape == (2, 0)
    for task, padded in zip((some, none), alike([some, none]), strict=True):
        assert words(padded).shape == words(some).shape
        np.testing.assert_array_equal(words(padded)[:, : words(task).shape[1]], words(task))
    padded = alike([some, none])[1]
    text = tiny_points.answer("0+(0+(0+0))", (1, 2, 3, 4), zeros)
    _, verdict = tiny_points.play(padded, tiny_points.start(padded, (1, 2, 3, 4)), text)
    assert verdict.reward == 5


def test_one_task_is_like_itself():
    (task,) = alike(tasks()[:1])
    chex.assert_trees_all_equal(task, tasks()[0])


def of_pictures(**sizes):
    return dataclasses.replace(make(AS_TEN, visual=True), look=tiny_points.look(**sizes))


@pytest.mark.parametrize(
    "other",
    [
        lambda: dataclasses.replace(make(AS_TEN), deck=make(FACES_IN_ORDER, **FOUR_SEEN).deck),
        lambda: make(dataclasses.replace(AS_TEN, with_replacement=False)),
        lambda: make(AS_TEN, leak=True),
        lambda: make(AS_TEN, visual=True),
        lambda: dataclasses.replace(
            make(AS_TEN), rewards=make(FACES_IN_ORDER, **FOUR_SEEN).rewards
        ),
    ],
    ids=["cards", "with_replacement", "leak", "pictures", "rewards"],
)
def test_tasks_of_different_kinds_are_refused(other):
    with pytest.raises(ValueError, match="differ in more than sizes; give them the same number of"):
        alike([make(AS_TEN), other()])


@pytest.mark.parametrize("sizes", [{"height": 30}, {"card_height": 12}])
def test_pictures_of_different_sizes_are_refused(sizes):
    """A padded atlas would show other faces."""
    with pytest.raises(ValueError, match="differ in more than sizes"):
        alike([of_pictures(), of_pictures(**sizes)])
