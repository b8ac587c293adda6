"""Questions of the host: batches, padding, judging, and what is learnt from each."""

import collections
import dataclasses
import functools
import itertools
import re

import jax
import numpy as np
import pytest

from rlrazor.runtime.mesh import make_mesh
from rlrazor.studies import questions as asked
from rlrazor.studies.drive import drive
from rlrazor.studies.host import (
    Encoded,
    OnHost,
    Question,
    batch,
    bucket,
    conversation_rows,
    judge_rows,
    prompt_rows,
    sample,
)
from rlrazor.studies.programs import initial
from rlrazor.studies.study import Run
from rlrazor.studies.world import World
from rlrazor.tasks.protocol import Verdict
from tests.oracles import toy_policy, toy_study
from tests.oracles.toy_policy import ANSWER_TOKENS, END, ZERO
from tests.oracles.toy_study import QUIET, arm, given, lines_of, setup

pytestmark = pytest.mark.usefixtures("quick_compiles")

MESH = make_mesh(data=1)


def decode(tokens):
    return "".join(str(t - ZERO) for t in tokens if t >= ZERO)


def judge(prompts, answers, truths):
    """Graded: a digit's share of the right ones."""
    return [
        Verdict(len(set(a) & set(t)) / len(t), a == t, {"no_answer": not a})
        for _, a, t in zip(prompts, answers, truths, strict=True)
    ]


def encoded(prompt, answer):
    tokens = np.array([*prompt, *answer, END], np.int32)
    return Encoded(tokens, np.arange(len(tokens)) >= len(prompt))


def question(n):
    prompt = np.array([ZERO + n % 6, ZERO + n // 6 % 6, 0][: 2 + n % 2], np.int32)
    answer = [ZERO + n % 6, ZERO + (n + 1) % 6]
    return Question(
        prompt, f"question {n}", decode(answer), encoded(prompt, answer),
        encoded(prompt, answer[::-1]), np.array([*prompt, *answer, END, *prompt], np.int32),
    )  # fmt: skip


QUESTIONS = [question(n) for n in range(7)]


@functools.cache
def on_host(count=7):
    return OnHost(QUESTIONS[:count], judge, decode, (3,), (5, 6))


def test_rows_are_padded_behind_their_tokens():
    rows = conversation_rows([encoded([2, 3], [4]), encoded([2], [5])], (6, 4), MESH)
    np.testing.assert_array_equal(rows.tokens, [[2, 3, 4, END], [2, 5, END, 0]])
    np.testing.assert_array_equal(rows.count, [4, 3])
    np.testing.assert_array_equal(rows.mask, [[0, 0, 1, 1], [0, 1, 1, 0]])
    prompts = prompt_rows([np.array([2, 3]), np.array([4])], (5, 2), MESH)
    assert (prompts.prompt_size, prompts.tokens.tolist()) == (2, [[2, 3], [4, 0]])


def test_the_smallest_bucket_holds_the_longest_row():
    assert [bucket(n, (64, 16, 32)) for n in (1, 16, 17, 64)] == [16, 16, 32, 64]


def take(n, *, start=0, count=10, size=3, seed=0):
    return [batch(count, size, seed=seed, number=i).tolist() for i in range(start, start + n)]


def test_an_epoch_shows_every_example_at_most_once_in_a_new_order():
    first, second = take(6)[:3], take(6)[3:]
    for epoch in (first, second):
        assert len(set(itertools.chain(*epoch))) == 9
    assert first != second
    assert take(3, seed=1) != first
    assert take(7)[4:] == take(3, start=4)


def test_fewer_examples_than_a_batch_are_repeated():
    for some in take(3, count=2, size=5):
        assert set(some) == {0, 1}
        assert len(some) == 5


@functools.cache
def sampled(name="grpo", devices=1):
    made = setup(name, devices=devices)
    known = given()
    prompts = prompt_rows([q.prompt for q in QUESTIONS[:4]], (3,), made.policy.mesh)
    state = initial(made, known, known.base)
    return jax.jit(functools.partial(sample, made))(state, known, prompts)


def test_answers_stand_behind_their_prompts_and_are_judged():
    rows = sampled()
    asked_for = [q for q in QUESTIONS[:4] for _ in range(3)]
    found = judge_rows(judge, rows, asked_for, decode)
    for b, q in enumerate(asked_for):
        n, count = len(q.prompt), int(rows.count[b])
        np.testing.assert_array_equal(rows.tokens[b, :n], q.prompt)
        assert np.flatnonzero(rows.mask[b]).tolist() == list(range(n, count))
        said = rows.tokens[b, n:count].tolist()
        finished = said[-1] == END
        assert finished or len(said) == ANSWER_TOKENS
        (verdict,) = judge([q.text], [decode(said)], [q.truth])
        assert found["reward"][b] == pytest.approx(verdict.reward * finished)
        assert found["correct"][b] == (verdict.correct and finished)
        assert found["truncated"][b] == (not finished)
    assert len(set(found["reward"])) > 1


def test_devices_sample_the_same():
    for a, b in zip(*map(jax.tree.leaves, (sampled(), sampled(devices=4))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(lambda p, a, t: judge(p, a, t)[1:], "gave 11 verdicts on 12 answers"),
     (lambda p, a, t: [Verdict(float("nan"), False)] * len(a), "reward that is not finite")],
)  # fmt: skip
def test_a_judge_that_does_not_judge_is_named(wrong, message):
    asked_for = [q for q in QUESTIONS[:4] for _ in range(3)]
    with pytest.raises(ValueError, match=message):
        judge_rows(wrong, sampled(), asked_for, decode)


@pytest.mark.parametrize(
    ("name", "lacking", "message"),
    [
        ("sft", {"conversation": None}, "the data have no answers to imitate"),
        ("dpo", {"rejected": None}, r'has no wrong answer \("rejected"\)'),
        ("sdft", {"demonstrated": None}, "no answers to show"),
    ],
)
def test_methods_that_the_data_cannot_serve_are_refused(name, lacking, message):

    poor = dataclasses.replace(
        on_host(), questions=[dataclasses.replace(q, **lacking) for q in QUESTIONS]
    )
    assert re.search(message, poor.refusal(setup(name)))
    assert on_host().refusal(setup(name)) is None
    assert "answered once" in on_host().refusal(setup(name, turns=2))


def run_of(name):
    return Run(name, name, name, "main", "reward", name, 0, 0.05, 4, (4,))


@pytest.mark.parametrize(
    "name",
    ["grpo", "dpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sft", "sdft", "ppo"))],
)
def test_methods_learn_from_questions(name):
    made, known = setup(name), given()
    state = toy_study.program(name)[0](known, known.base)
    advance, found = on_host().advancing(made, state), []
    for done in range(2):
        state, metrics = advance(run_of(name), state, known, done)
        found.append(jax.device_get(metrics))
    assert all(np.isfinite(v) for metrics in found for v in metrics.values())
    moved = [
        np.abs(a - b).max()
        for a, b in zip(
            *map(jax.tree.leaves, (state.train.params["policy"], known.base)), strict=True
        )
    ]
    assert max(moved) > 1e-3


def test_a_fixed_set_is_the_first_questions():
    chosen = collections.Counter(
        q.text for n in range(9) for q in on_host().chosen(setup("grpo", fixed=2), 0, n)
    )
    assert set(chosen) == {"question 0", "question 1"}


# Measured.


@functools.cache
def measured(at_once=3, devices=1):
    policy = toy_study.policy(devices)
    asking = asked.Asking(policy, at_once=at_once)
    some = OnHost(QUESTIONS[:5], judge, decode, (3,), (6,))
    made = [
        asked.success(asking, "new", on_host(), part=0),
        asked.divergence(asking, "new", [on_host()], rows_at_once=2, part=10),
        asked.prior(asking, {"a": on_host(), "b": some}, part=20),
    ]
    base, other, key, found = toy_policy.make(0), toy_policy.make(1), jax.random.key(3), {}
    for one in made:
        kept = None if one.keep is None else one.keep(base, key)
        found |= one.of(other, base, kept, key)
    return found


def test_greedy_answers_are_judged_question_by_question():
    params, rewards, right = toy_policy.make(1), [], []
    for q in QUESTIONS:
        answer = []
        while len(answer) < ANSWER_TOKENS and END not in answer:
            before = [*q.prompt.tolist(), *answer]
            answer.append(int(np.argmax(toy_policy.twin_distribution(params, before))))
        (verdict,) = judge([q.text], [decode(answer)], [q.truth])
        finished = answer[-1] == END
        rewards.append(verdict.reward * finished)
        right.append(verdict.correct and finished)
    assert measured()["new/reward"] == pytest.approx(np.mean(rewards))
    assert measured()["new/accuracy"] == np.mean(right)
    assert measured()["new/count"] == 7
    both = [measured()[f"prior/{name}/accuracy"] for name in ("a", "b")]
    assert measured()["prior/accuracy"] == np.mean(both)
    assert measured()["new/kl_base_policy_nats"] > 0.1


def test_devices_change_no_number():
    shared = measured(devices=4)
    assert shared.keys() == measured().keys()
    for name, value in measured().items():
        if isinstance(value, str):
            assert shared[name] == value, name
        else:
            assert shared[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_a_study_of_questions_is_driven_like_any(tmp_path):
    asking = asked.Asking(toy_study.policy(), at_once=4)
    world = World(on_host(), [
        asked.success(asking, "new", on_host(), part=0),
        asked.prior(asking, {"a": on_host()}, part=20),
    ])  # fmt: skip
    study = toy_study.study(*(arm(name, world=world) for name in ("sft", "grpo")))
    lines = lines_of(drive(study, tmp_path / "run", **QUIET))
    for line in lines:
        assert 0 <= line["prior/a/base_accuracy"] <= 1
        assert line["prior/base_accuracy"] == line["prior/a/base_accuracy"]
        assert line["new/base_reward"] is not None
    trained = [line for line in lines if line["arm"] == "grpo" and line["step"]]
    assert all(line["train/reward"] is not None for line in trained)
