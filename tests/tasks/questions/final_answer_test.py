"""The judge of final answers: what it calls right, and that it is quick and never raises."""

import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrazor.tasks.protocol import Verdict
from rlrazor.tasks.questions import latex
from rlrazor.tasks.questions.final_answer import is_right, judge, truncated, unreadable

pytest.importorskip("math_verify")
# What people reported of judges; many more beside it, by the kind of the truth, lie in the file.
FIELD = [
    ("B", "B", True),
    ("The answer is B.", "B", True),
    (r"\boxed{B}", r"B", True),
    ("B", "#### B", True),
    ("yes", "yes", True),
    ("#### 72\nHope this helps!", "#### 72", True),
    ("#### 72 dollars", "#### 72", True),
    ("#### **72**", "#### 72", True),
    ("#### 4\n\nQuestion: next", "4", True),
    ("#### 72%", "72", True),
    ("it is 1e3", "3", False),
    ("it is 1e3", "1000", True),
    ("6.02e23", "23", False),
    ("The answer is \u22125", "5", False),
    ("The answer is \u22125", "-5", True),
    ("\\boxed{\u22125}", "-5", True),
    ("between 5-10", "-10", False),
    ("x = 3-1", "-1", False),
    ("1 000 000", "1000000", True),
    ("2024-01-05", "2023-12-05", False),
    ("10^2", "2", False),
    (r"2\sqrt{3}", r"3", False),
    (r"\boxed{\frac{1}{2}}", r"1/2", True),
    (r"\boxed{\dfrac{1}{2}}", r"\boxed{\frac{1}{2}}", True),
    (r"\boxed{50\%}", r"50", True),
    (r"\boxed{12\text{ cm}}", r"12", True),
    (r"\boxed{\$18}", r"18", True),
    (r"\boxed{1{,}234}", r"1234", True),
    ("<think>perhaps \\boxed{7}</think>\nThe answer is 9.", "9", True),
]
BESIDE = [
    tuple(json.loads(line).values())
    for line in Path(__file__).with_name("final_answers.jsonl").read_text().splitlines()
]
LONG = 10**6


def outcome(answer, truth):
    (verdict,) = judge(["q"], [answer], [truth])
    failures = [name for name, failed in verdict.failures.items() if failed]
    assert verdict.reward == float(verdict.correct)
    return "right" if verdict.correct else failures[0] if failures else "wrong"


@pytest.mark.parametrize(("answer", "truth", "wanted"), FIELD)
def test_what_was_reported_is_judged_rightly(answer, truth, wanted):
    assert is_right(answer, truth) is wanted


@pytest.mark.parametrize(("right", "truth", "answer"), BESIDE)
def test_answers_are_judged(right, truth, answer):
    assert is_right(answer, truth) is right


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("72", "72", "right"),
        ("73", "72", "wrong"),
        ("I do not know", "72", "no_answer"),
        ("", "72", "no_answer"),
        (" \n", "B", "no_answer"),
        ("It depends on many things that nobody knows.", "B", "no_answer"),
        ("Well, this is a long story about a town that has no name at all", "Paris", "no_answer"),
        ("It is Rome.", "Paris", "wrong"),
        ("A", "B", "wrong"),
        ("A or B", "B", "wrong"),
        ("no", "yes", "wrong"),
        ("<think>perhaps 72", "72", "no_answer"),
        ("<think>perhaps</think>", "72", "no_answer"),
        (r"\boxed{x}", "72", "wrong"),
        (r"\boxed{}", "72", "no_answer"),
        (r"\boxed{9^{9^{9^{9}}}}", "2", "timed_out"),
        (None, "72", "no_answer"),
        ("72", "", "wrong"),
        ("", "", "no_answer"),
        ("None", None, "wrong"),
    ],
)
def test_right_wrong_and_no_answer_are_kept_apart(answer, truth, expected):
    assert outcome(answer, truth) == expected


def test_a_batch_is_judged_as_its_pairs_are():
    pairs = [(a, t) for a, t, _ in FIELD] + [(r"\boxed{\sqrt{117}}", r"3\sqrt{13}")] * 2
    verdicts = judge([""] * len(pairs), *zip(*pairs, strict=True))
    assert [v.correct for v in verdicts] == [is_right(a, t) for a, t in pairs]
    assert judge([], [], []) == []
    with pytest.raises(ValueError, match="1 prompts, 2 answers and 1 truths"):
        judge([""], ["", ""], [""])


def test_a_truncated_answer_is_not_right():
    (verdict,) = judge([""], ["12"], ["12"])
    cut = truncated(verdict)
    assert (cut.reward, cut.correct) == (0.0, False)
    assert cut.failures == {"no_answer": False, "timed_out": False, "truncated": True}
    assert "truncated" not in verdict.failures


def test_a_verdict_needs_no_failures():
    first, second = (Verdict(reward=1.0, correct=True) for _ in range(2))  # type: ignore[arg-type]
    assert first.failures == {}
    assert first.failures is not second.failures


@pytest.mark.parametrize(
    ("truth", "says"),
    [
        ("72", None),
        ("B", None),
        (r"3\sqrt{13}", None),
        ("She sold 72 clips.", None),
        ("Natalia sold 48. She sold 24 more of them. That is a lot of clips.\n#### 72", None),
        (r"First we add. Then we divide both of them by two. Thus \boxed{\frac{1}{2}}.", None),
        (72, None),
        ("", "empty"),
        (" \n", "empty"),
        ("<think>hm", "no end"),
        (None, "of type NoneType"),
        (["B"], "of type list"),
        ("She sold 48 clips in April. Then she sold half as many, 24, in May.", "no final answer"),
        ("word " * 20, "no final answer"),
    ],
)
def test_a_truth_that_can_never_be_right_says_why(truth, says):
    found = unreadable(truth)
    assert (found is None) if says is None else (says in found)


def test_without_math_verify_texts_and_numbers_are_still_judged(monkeypatch):
    monkeypatch.setattr(latex, "installed", lambda: False)
    assert is_right(r"\boxed{3\sqrt{13}}", r"3\sqrt{13}")
    assert is_right(r"\boxed{\dfrac{1}{2}}", "0.5")
    assert not is_right(r"\boxed{\sqrt{117}}", r"3\sqrt{13}")
    assert "pip install 'rlrazor[judges]'" in (unreadable(r"3\sqrt{13}") or "")
    assert unreadable(r"\frac{1}{2}") is None


SYMBOLS = ["\\boxed{", "}", "####", " ", "\n", "<think>", "</think>", "<answer>", "</answer>"]
SYMBOLS += ["answer is", "A", "B", "yes", "1", "2/3", "e9", "-", ",", ".", "$", "\\frac", "{", "**"]
TEXTS = st.text() | st.lists(st.sampled_from(SYMBOLS)).map("".join)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_it_judges_any_text(answer, truth):
    assert outcome(answer, truth) in ("right", "wrong", "no_answer", "timed_out")
    unreadable(truth)


@settings(deadline=None)
@given(TEXTS.filter(lambda text: unreadable(text) is None))
def test_the_truth_itself_is_never_without_an_answer(truth):
    assert outcome(truth, truth) == "right"


@settings(deadline=None)
@given(
    st.integers(-(10**9), 10**9),
    st.integers(1, 999),
    st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}"]),
)
def test_numbers_are_equal_as_fractions(numerator, factor, form):
    said = form.format(numerator * factor, factor * 7)
    assert is_right(f"x = {said}", f"{numerator}/7")
    assert is_right(rf"\boxed{{{said}}}", f"{numerator}/7")
    assert not is_right(rf"\boxed{{{said}}}", f"{numerator}/8") or numerator == 0


@pytest.mark.parametrize("form", ["{}", "{}.", "x {}", r"\boxed{{{}}}", "#### {}", "is ${}$"])
@pytest.mark.parametrize(
    "number", ["9" * 10_000, "1e999999999", "1e" + "9" * 40, "0." + "3" * 5000]
)
def test_huge_numbers_are_judged(number, form):
    assert is_right(form.format(number), number)
    assert not is_right(form.format(number), "9")
    assert not is_right(form.format("9"), number)
    assert not is_right(form.format(number), number[:-1])


@pytest.mark.parametrize("truth", ["1", r"3\sqrt{13}", "B", "yes"])
@pytest.mark.parametrize(
    "piece",
    ["\\boxed{", "{", "}", "#### ", "1", "1,", "1 000 ", "<think>", "$", "\\[", "answer is ", "\n",
     "A) ", "5-", "\\", "\\text{", "= ", "1/", ".", "<<", "- ", "a", "(", " ", "\xbd", "*"],
)  # fmt: skip
def test_an_endless_answer_is_judged_at_once(piece, truth):
    """At a square of its length each of these would take hours."""
    assert outcome(piece * (LONG // len(piece)), truth) in ("wrong", "no_answer")


def data(name):
    if "RLRAZOR_DATA" not in os.environ:
        pytest.skip("needs RLRAZOR_DATA")
    return Path(os.environ["RLRAZOR_DATA"]) / "language" / name


@pytest.mark.parametrize(
    "form", ["{}", r"\boxed{{{}}}", "#### {}", "The answer is ${}$.", "so \\[ {} \\]"]
)
def test_real_truths_are_right_in_every_form(form):
    records = json.loads(data("open_reasoner_zero/eval_math500.json").read_text())
    truths = [str(record["final_answer"]) for record in records]
    assert [t for t in truths if unreadable(t)] == []
    verdicts = judge([""] * len(truths), [form.format(t) for t in truths], truths)
    assert [t for t, v in zip(truths, verdicts, strict=True) if not v.correct] == []


def test_real_truths_are_told_from_others():
    records = json.loads(data("open_reasoner_zero/eval_math500.json").read_text())
    truths = sorted({str(record["final_answer"]) for record in records})
    pairs = list(itertools.pairwise(truths))
    verdicts = judge(
        [""] * len(pairs), [rf"\boxed{{{t}}}" for t, _ in pairs], [t for _, t in pairs]
    )
    right = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct]
    assert all(b.startswith((rf"{a}^\circ", rf"{a}\mbox")) for a, b in right)


def test_gsm8k_is_judged_by_its_mark():
    lines = data("gsm8k/test.jsonl").read_text().split("\n")[:300]
    truths = [json.loads(line)["answer"] for line in lines if line]
    numbers = [truth.split("####")[1].strip() for truth in truths]
    for form in ("#### {}", "The answer is **{}**.", "So she has ${} left.", "{} eggs"):
        verdicts = judge([""] * len(truths), [form.format(n) for n in numbers], truths)
        assert all(verdict.correct for verdict in verdicts)
    others = judge([""] * len(truths), [f"{n}1" for n in numbers], truths)
    assert not any(verdict.correct for verdict in others)
