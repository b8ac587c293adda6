import json

import numpy as np
import pytest

from experiments.benchmarks.general_points import DEALT, DRAWN, EXPERT, LONG, summary
from experiments.benchmarks.points_answers import Answers, expert_answers, lengthen
from experiments.benchmarks.points_peers import check, load_twin, string_eval
from rlrazor.tasks.general_points.deck import make_deck
from rlrazor.tasks.general_points.rule import FACES_IN_ORDER
from tests.oracles.scripts import Script

SPEEDS = {
    "verdicts_per_second",
    "verdicts_per_second_per_core",
    "ratio_to_python_twin",
    "ratio_to_string_eval",
}
HANDS = {"hands_dealt_per_second", "hands_drawn_per_second"}


@pytest.fixture(scope="module")
def expert() -> Answers:
    return expert_answers(FACES_IN_ORDER, make_deck(FACES_IN_ORDER), 64, seed=3)


def test_half_of_the_answers_are_right_at_any_length(expert):
    judge = load_twin()
    longer = lengthen(expert, 64, seed=4)
    for text, long_text, hand in zip(expert.texts, longer.texts, expert.ranks, strict=True):
        flags = judge(text.encode(), hand.tolist(), FACES_IN_ORDER)
        assert flags == judge(long_text.encode(), hand.tolist(), FACES_IN_ORDER)
        assert len(json.loads(long_text)["formula"]) == 64
    verdicts = [
        judge(text.encode(), hand.tolist(), FACES_IN_ORDER)
        for text, hand in zip(longer.texts, longer.ranks, strict=True)
    ]
    assert all(verdict["correct"] for verdict in verdicts[::2])
    assert not all(verdict["correct"] for verdict in verdicts[1::2])
    for flag in ("illegal_formula", "wrong_value", "card_unused"):
        assert any(verdict[flag] for verdict in verdicts), flag


@pytest.mark.parametrize(
    ("formula", "right"),
    [
        ("(13-1)*6/3=24", True),
        (" ( 13 - (1))*6 / 3", True),
        ("13+1+6+3", False),
        ("(13-1)*6", False),
        ("(13-1)*6/3*24/24", False),
        ("13**6**3**1", False),
        ("13//1+6+3", False),
        ("13(1)+6+3", False),
        ("(13-1)(6+3)", False),
        ("(13-01)*6/3", False),
        ("(13-1)*6/3)", False),
        ("6/(1-1)*13-3", False),
        ("(13-1)*6/3 or 1", False),
        ("", False),
    ],
)
def test_string_eval_runs_arithmetic_only(formula, right):
    assert string_eval(f'{{"formula": "{formula}"}}', (1, 3, 13, 6), 24) == right


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '{"formula": }'])
def test_string_eval_refuses_what_is_no_answer(text):
    assert not string_eval(text, (1, 3, 13, 6), 24)


def test_no_figure_without_agreement():
    truth = [{"correct": True}, {"correct": False}]
    check("ours", {"correct": np.array([[True, False], [True, False]])}, truth)
    with pytest.raises(ValueError, match="ours: 'correct' is not what the twin says"):
        check("ours", {"correct": np.array([[True, False], [True, True]])}, truth)


def test_summary_takes_medians_and_the_best_size():
    rates = {
        f"{LONG}: rlrazor, 1 at once": [10.0, 90.0, 20.0],
        f"{LONG}: rlrazor, 2 at once": [40.0, 40.0, 50.0],
        f"{LONG}: Python twin, one core": [2.0, 2.0, 7.0],
        f"{LONG}: string eval, one core": [5.0, 1.0, 5.0],
        DEALT: [3.0],
        DRAWN: [4.0],
    }
    judged = [name for name in rates if name.startswith(LONG)]
    rates |= {name.replace(LONG, EXPERT): [2 * r for r in rates[name]] for name in judged}
    table, numbers = summary(rates, 2)
    assert len(table.splitlines()) == 1 + len(rates)
    assert numbers["verdicts_per_second"] == 40
    assert numbers["verdicts_per_second_per_core"] == 20
    assert numbers["ratio_to_python_twin"] == 10
    assert numbers["ratio_to_string_eval"] == 4
    assert numbers["expert_answers"]["verdicts_per_second"] == 80
    assert (numbers["hands_dealt_per_second"], numbers["hands_drawn_per_second"]) == (3, 4)


@pytest.fixture
def run(tmp_path, cache):
    return lambda *flags: Script(
        "benchmarks/general_points.py", *flags, folder=tmp_path, cache=cache
    ).wait()


@pytest.mark.slow
def test_last_line_is_one_json_object(run):
    sizes = ("--distinct=8", "--answers=64", "--hands=8", "--pictures=2")
    done = run("--rounds=1", "--seconds=0.001", *sizes)
    assert done.status == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert len(table) == 1 + 2 * 3 + 2
    numbers = json.loads(last)
    assert all(numbers[name] > 0 for name in SPEEDS | HANDS)
    assert set(numbers["expert_answers"]) == SPEEDS
    assert len(numbers["compile_seconds"]) == 4
    assert numbers["cores"] >= 1
    assert numbers["device"]
    expert, long = sorted(numbers["row_bytes"].values())
    assert 64 < expert < long < 160
    assert numbers["rounds"] == 1


def test_a_wrong_flag_is_one_sentence(run):
    done = run("--rounds=0")
    assert done.status == 2
    assert done.sentence.startswith("error: ")
    assert "--rounds" in done.sentence
