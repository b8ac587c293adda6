"""Training and held-out questions never meet, and the text alone tells them apart."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.tasks.procedural import split
from rlrazor.tasks.procedural.pieces import TASKS
from rlrazor.tasks.procedural.questions import Sizes
from tests.oracles import procedural_twin as twin
from tests.oracles.tiny_procedural import COUNT, draw, make, only


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_a_part_holds_only_its_own_questions(part):
    _, pairs = draw(make(part=part))
    assert {question.split()[0] for question, _ in pairs} == set(TASKS)
    assert {twin.held_out(question) for question, _ in pairs} == {part == "held_out"}
    assert all(twin.solve(question) == answer for question, answer in pairs)


def test_the_parts_share_no_question_and_neither_is_small():
    train, held = ({q for q, _ in draw(make(part=part))[1]} for part in ("train", "held_out"))
    assert not train & held
    assert min(len(train), len(held)) > COUNT / 2


def test_one_in_ten_of_every_task_is_held_out():
    states, pairs = draw(make())
    held = np.array([twin.held_out(question) for question, _ in pairs])
    for i in range(len(TASKS)):
        share = held[np.asarray(states.task) == i].mean()
        assert 0.02 < share < 0.2, TASKS[i]
    assert abs(held.mean() - 0.1) < 0.02


def test_one_in_ten_of_all_sums_is_held_out():
    # Neither by rows nor by columns, which would take an operand out of training.
    held = np.array([[twin.held_out(f"add {a} {b} =") for b in range(100)] for a in range(100)])
    assert abs(held.mean() - 0.1) < 0.01
    assert 0.01 <= held.mean(axis=0).min() < held.mean(axis=0).max() <= 0.25
    assert 0.01 <= held.mean(axis=1).min() < held.mean(axis=1).max() <= 0.25
    assert held.reshape(100, 10, 10).mean(axis=(0, 1)).min() > 0.07  # by the last digit


@pytest.mark.parametrize("name", TASKS)
def test_both_parts_of_the_smallest_sizes_are_hit(name):
    sizes = Sizes(digits=1, shortest=2, longest=2)
    for part in ("train", "held_out"):
        _, pairs = draw(make(weights=only(name), part=part, sizes=sizes))
        assert {twin.held_out(question) for question, _ in pairs} == {part == "held_out"}


def test_padding_does_not_move_a_question():
    asked = np.array([24, 5, 8, 21, 4, 9, 23, 0, 0], np.int32)  # add 47 38 =
    padded = np.array([24, 0, 5, 8, 0, 21, 4, 9, 0, 23], np.int32)
    assert split.is_held_out(jnp.asarray(asked)) == twin.held_out("add 47 38 =")
    assert split.is_held_out(jnp.asarray(padded)) == twin.held_out("add 47 38 =")
