"""The judge of final answers: what it reads, what it calls equal, and that it never raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.finetuning.final_answer import final_answer, is_right


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so the total is 1,234.50 dollars", "1,234.50"),
        ("first 3, then 4 apples", "4"),
        ("48/2 = <<48/2=24>>24\n#### 72", "72"),
        (r"thus \boxed{\frac{1}{2}} holds, #### 9", r"\frac{1}{2}"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{7} and an open \boxed{8", "7"),
        ("no idea", None),
        ("####", None),
        ("", None),
    ],
)
def test_the_final_answer_is_found(text, expected):
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("it is 72.", "#### 72", True),
        ("#### 1000", "1,000", True),
        (r"\boxed{0.5}", r"\boxed{1/2}", True),
        (r"\boxed{$ 18 }", "18", True),
        ("-3", "3", False),
        ("7200", "72", False),
        ("72 or rather 73", "72", False),
        (r"\boxed{1,2}", "12", False),  # a pair is no number
        (r"\boxed{1/0}", r"\boxed{1/0}", True),  # not a number, but the same text
        (r"\boxed{Paris}", r"\boxed{ paris}", True),
        (r"\boxed{Paris}", r"\boxed{Rome}", False),
        (r"\boxed{x}", "5", False),
        ("no idea", "no idea", False),
    ],
)
def test_answers_are_judged(answer, truth, expected):
    assert is_right(answer, truth) is expected


@given(st.text(), st.text())
def test_it_judges_any_text(answer, truth):
    assert is_right(answer, truth) in (True, False)


@given(st.integers(-(10**9), 10**9), st.integers(1, 999))
def test_numbers_are_equal_as_fractions(numerator, factor):
    assert is_right(f"x = {numerator * factor}/{factor * 7}", f"{numerator}/7")


def test_a_number_of_endless_digits_is_not_read():
    assert not is_right(rf"\boxed{{{'9' * 5000}}}", "9")
