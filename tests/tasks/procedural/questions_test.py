"""What is drawn: sizes, chances, and that no choice is dead."""

import collections

import numpy as np
import pytest

from rlrazor.tasks.procedural.pieces import TASKS
from rlrazor.tasks.procedural.questions import Sizes
from tests.oracles import procedural_twin as twin
from tests.oracles.tiny_procedural import COUNT, draw, make, only


@pytest.fixture(scope="module")
def asked():
    """Task -> its words between the first and "=", COUNT questions each."""
    found = {}
    for name in TASKS:
        _, pairs = draw(make(weights=only(name)))
        found[name] = [question.split()[1:-1] for question, _ in pairs]
    return found


def even(values, kinds, expected=None):
    """Whether counts of values are those of equal chances, within five standard deviations."""
    counts = np.array([collections.Counter(values)[kind] for kind in kinds])
    expected = len(values) / len(kinds) if expected is None else len(values) * expected
    return len(values) == counts.sum() and (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_operands_are_even(asked):
    for name in ("add", "larger"):
        for place in (0, 1):
            assert even([int(words[place]) for words in asked[name]], range(100))
    pairs = [(int(a), int(b)) for a, b in asked["subtract"]]
    assert all(a >= b for a, b in pairs)
    assert np.mean([a == b for a, b in pairs]) < 0.03
    assert {a for a, _ in pairs} > set(range(10, 100))


def test_lists_are_even(asked):
    for name, kinds in (("sort", "0123456789"), ("reverse", "abcdefghij"), ("copy", "abcdefghij")):
        assert even([len(words) for words in asked[name]], range(3, 7))
        for place in range(6):
            assert even([words[place] for words in asked[name] if len(words) > place], kinds)


def test_counts_and_maxima_cannot_be_guessed(asked):
    assert even([words[0] for words in asked["count"]], "abcdefghij")
    assert even([len(words) - 2 for words in asked["count"]], range(3, 7))
    assert {words[1] for words in asked["count"]} == {"in"}
    found = np.mean([word == words[0] for words in asked["count"] for word in words[2:]])
    assert abs(found - 0.55) < 0.02  # the coin, or else one letter in ten
    others = [word for words in asked["count"] for word in words[2:] if word != words[0]]
    assert even(others, "abcdefghij")
    assert even([len(words) for words in asked["max"]], range(3, 7))
    for name in ("count", "max"):
        answers = [twin.solve(f"{name} {' '.join(words)} =") for words in asked[name]]
        assert max(collections.Counter(answers).values()) < 0.36 * COUNT
        assert len(set(answers)) > 6


def test_questions_rarely_repeat(asked):
    for name in ("add", "larger", "sort", "reverse", "count", "copy"):
        assert len(set(map(tuple, asked[name]))) > 0.6 * COUNT, name
    for name in ("subtract", "max"):
        assert len(set(map(tuple, asked[name]))) > 0.4 * COUNT, name


@pytest.mark.parametrize(
    "sizes", [Sizes(digits=4, shortest=9, longest=9), Sizes(digits=1, shortest=2, longest=2)]
)
def test_sizes_are_kept(sizes):
    _, pairs = draw(make(sizes=sizes))
    lengths, digits = set(), set()
    for question, answer in pairs:
        assert twin.solve(question) == answer
        name, *words, _ = question.split()
        if name in ("add", "larger"):
            digits |= set(map(len, words))
        elif name != "subtract":
            lengths.add(len(words) - 2 * (name == "count"))
    assert lengths == set(range(sizes.shortest, sizes.longest + 1))
    assert sizes.digits in digits
    assert max(digits) == sizes.digits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 0}, "digits=0 must be 1 to 4"),
        ({"digits": 5}, "digits=5 must be 1 to 4"),
        ({"digits": 2.0}, "digits=2.0 must be an integer"),
        ({"longest": True}, "longest=True must be an integer"),
        ({"shortest": 1}, "shortest=1 and longest=6"),
        ({"longest": 10}, "longest=10 must be 2 to 9"),
        ({"shortest": 5, "longest": 4}, "shortest=5 and longest=4"),
    ],
)
def test_sizes_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sizes(**options)
