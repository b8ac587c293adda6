"""The procedural tasks as they are played: drawn, asked, judged, ended."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.tasks.procedural import task as procedural
from rlrazor.tasks.procedural.pieces import TASKS
from rlrazor.tasks.procedural.split import PARTS
from tests.oracles import procedural_twin as twin
from tests.oracles.tiny_procedural import (
    COUNT,
    UNIFORM,
    as_bytes,
    draw,
    failures,
    jit,
    keys,
    make,
    only,
    resets,
    sides,
    steps,
    steps_of_one,
    texts,
)


@pytest.fixture(scope="module")
def drawn():
    """Task, states and texts of the mixture, some 250 a task."""
    task = make()
    return task, *draw(task)


def with_weights(task, weights):
    return dataclasses.replace(task, weights=jnp.asarray(weights, jnp.float32))


def test_every_answer_is_the_twins(drawn):
    _, states, pairs = drawn
    assert [answer for _, answer in pairs] == [twin.solve(question) for question, _ in pairs]
    asked = [question.split()[0] for question, _ in pairs]
    assert asked == [TASKS[i] for i in states.task.tolist()]
    assert set(asked) == set(TASKS)


def test_a_demonstration_is_judged_correct_and_ends_the_task(drawn):
    task, states, pairs = drawn
    answers = as_bytes([answer for _, answer in pairs], 24)
    after, verdict = steps(task, states, answers)
    assert np.asarray(verdict.correct).all()
    assert np.asarray(verdict.reward).tolist() == [1.0] * COUNT
    assert set(failures(verdict)) == {""}
    assert np.asarray(after.terminated).all()
    assert not np.asarray(after.truncated).any()
    expected = sides(task, states)[2]
    np.testing.assert_array_equal(expected, answers[:, : expected.shape[1]])
    chex.assert_type([verdict.reward, verdict.correct], [jnp.float32, bool])


def test_a_task_that_is_over_says_nothing_and_stays_over(drawn):
    task, states, pairs = drawn
    answers = as_bytes([answer for _, answer in pairs], 24)
    for first in (answers, answers * 0):
        after, _ = steps(task, states, first)
        assert np.asarray(after.terminated).all()
        assert not np.asarray(jax.vmap(task.reply)(after).length).any()
        again, verdict = steps(task, after, answers)
        assert set(failures(verdict)) == {"over_budget"}
        assert not np.asarray(verdict.reward).any()
        assert not np.asarray(verdict.correct).any()
        chex.assert_trees_all_equal(again, after)


def edits(right):
    """Every text one byte away from the right one, and some further ones."""
    some = b"0159abj =\t\n\r\0-x\xff"
    for i in range(len(right) + 1):
        for byte in some:
            yield right[:i] + bytes([byte]) + right[i:]
            yield right[:i] + bytes([byte]) + right[i + 1 :]
        yield right[:i] + right[i + 1 :]
        yield right[i:]
    yield from (right * 2, right + b" " + right, right[::-1], right.upper(), b"0" + right)
    yield from (
        b"" + blank + right + 2 * blank for blank in (b" ", b"\t", b"\n", b"\r", b" \t\r\n")
    )
    yield from (right + b"\0junk", b"\0" + right, b" \0" + right, b"", b" \t\r\n ", right + b" .")


@pytest.mark.parametrize("name", TASKS)
def test_every_edit_is_judged_as_the_twin_judges(drawn, name):
    task, states, pairs = drawn
    rng = np.random.default_rng(TASKS.index(name))
    for i in rng.choice(np.flatnonzero(states.task == TASKS.index(name)), 3, replace=False):
        right = pairs[i][1]
        answers = list(edits(right.encode()))
        answers += [b"x"] * (900 - len(answers))  # one shape for all
        state = jax.tree.map(lambda x, i=i: x[i], states)
        _, verdict = steps_of_one(task, state, as_bytes(answers, 40))
        expected = [twin.judge(answer, right) for answer in answers]
        assert failures(verdict) == expected
        assert np.asarray(verdict.correct).tolist() == [failure == "" for failure in expected]
        assert 0 < expected.count("") < 80
        assert {"no_answer", "wrong_answer"} < set(expected)


def test_hostile_bytes_are_a_verdict(drawn):
    task, states, pairs = drawn
    rng = np.random.default_rng(0)
    random = rng.integers(0, 256, (COUNT, 24), np.uint8)
    likely = rng.choice(np.frombuffer(b"\0 \t\n\r0123abc", np.uint8), (COUNT, 24))
    for answers in (random, likely):
        _, verdict = steps(task, states, answers)
        rows = zip(answers, pairs, strict=True)
        assert failures(verdict) == [twin.judge(row.tobytes(), right) for row, (_, right) in rows]
    for size in (0, 1):  # shorter than some right answers
        _, verdict = steps(task, states, np.full((COUNT, size), ord("7"), np.uint8))
        expected = ["no_answer"] if not size else [twin.judge(b"7", right) for _, right in pairs]
        assert set(failures(verdict)) == set(expected)
        assert np.asarray(verdict.correct).sum() == size * [r for _, r in pairs].count("7")


def test_a_batch_is_many_questions():
    task = make(part="held_out")
    batch = resets(task, keys(7))
    solo = jit(task.reset)
    for i, key in enumerate(keys(7)[:8]):
        chex.assert_trees_all_equal(solo(key), jax.tree.map(lambda x, i=i: x[i], batch))


def test_weights_say_which_tasks_are_asked():
    task = make()
    for name in TASKS:
        states = resets(with_weights(task, only(name)), keys(3))
        assert set(states.task.tolist()) == {TASKS.index(name)}
    weights = np.array([4, 0, 1, 0, 2, 0, 0, 1])  # need not sum to one
    counts = np.bincount(resets(with_weights(task, weights), keys(4)).task, minlength=8)
    expected = COUNT * weights / weights.sum()
    assert (counts[weights == 0] == 0).all()
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()
    built = make(weights=weights)
    np.testing.assert_allclose(built.weights, weights / 8, rtol=1e-6)


def test_one_program_serves_all_weights_and_parts():
    chex.clear_trace_counter()

    @jit
    @chex.assert_max_traces(n=1)
    def play(task, key):
        state = task.reset(key)
        tokens, _ = task.demonstrate(key, state)
        after, verdict = task.step(state, task.answer_bytes(state))
        return task.opening(after), tokens, verdict.correct

    for part in PARTS:
        for weights in (UNIFORM, only("sort")):
            assert play(make(weights=weights, part=part), jax.random.key(0))[2]


@pytest.mark.parametrize(
    ("weights", "part", "message"),
    [
        (np.ones(7), "all", "8 numbers.*add, subtract"),
        (np.ones((8, 1)), "all", "8 numbers"),
        (1.0, "all", "8 numbers"),
        ("many", "all", "8 numbers"),
        ([*[1.0] * 7, -0.1], "all", "none negative"),
        (np.zeros(8), "all", "one or more positive"),
        ([*[1.0] * 7, float("nan")], "all", "8 numbers"),
        ([*[1.0] * 7, float("inf")], "all", "8 numbers"),
        (np.ones(8), "test", "part='test' must be one of train, held_out, all"),
    ],
)
def test_mistakes_are_told_when_it_is_built(weights, part, message):
    with pytest.raises(ValueError, match=message):
        make(weights=weights, part=part)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_weights_of_any_scale(scale):
    np.testing.assert_allclose(make(weights=UNIFORM * scale).weights, 1 / 8, rtol=1e-6)


@pytest.mark.slow
def test_an_end_to_the_attempts(monkeypatch):
    # A part without questions would otherwise keep a draw, and its whole batch, for ever.
    monkeypatch.setattr(procedural, "ATTEMPTS", 8)
    monkeypatch.setattr(procedural.split, "belongs", lambda asked, part: part < 0)
    task = make()
    state = jit(lambda task, key: task.reset(key))(task, jax.random.key(0))
    question, answer = texts(
        task, jax.tree.map(lambda x: jnp.repeat(x[None], COUNT, axis=0), state)
    )[0]
    assert twin.solve(question) == answer
