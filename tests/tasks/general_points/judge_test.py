"""The slow judge against answers judged by hand, so that it may judge the fast one."""

import dataclasses
import itertools
import json
import operator
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER
from tests.oracles import points_cases
from tests.oracles.points_answers import answers, hypothesis_answers, random_game, right_formulas
from tests.oracles.points_judge import (
    BEGINNING,
    formula_tokens,
    grow,
    judge,
    read_card,
    read_object,
    value,
)
from tests.oracles.points_released import released_answer_score, released_score, released_solutions

RULES = {
    "in_order": FACES_IN_ORDER,
    "as_ten": FACES_AS_TEN,
    "three_cards": dataclasses.replace(FACES_AS_TEN, cards=3),
    "five_cards": dataclasses.replace(FACES_AS_TEN, cards=5),
    "another_target": dataclasses.replace(FACES_IN_ORDER, target=100),
}
UNREAD = ("no_object", "malformed_field")
UNSOLVED = ("illegal_formula", "number_not_on_cards", "card_reused", "card_unused", "wrong_value")


def set_flags(text: bytes, ranks, rule) -> set[str]:
    return {name for name, is_set in judge(text, ranks, rule).items() if is_set}


def check_laws(text: bytes, ranks, rule) -> None:
    flags = set_flags(text, ranks, rule)
    assert ("correct" in flags) == flags.isdisjoint((*UNREAD, *UNSOLVED))
    if not flags.isdisjoint(UNREAD):
        assert len(flags) == 1
    if not flags.isdisjoint(("illegal_formula", "wrong_value")):
        assert len(flags.intersection(UNSOLVED)) == 1
    assert set_flags(b"\xff[" + text + b"\0\0 x", ranks, rule) == flags
    assert set_flags(text, np.array(ranks)[::-1], rule) == flags


@pytest.mark.parametrize("case", points_cases.CASES, ids=lambda case: repr(case.text[-60:]))
def test_flags_are_those_worked_out_by_hand(case):
    assert set_flags(case.text, case.ranks, case.rule) == set(case.flags.split())
    check_laws(case.text, case.ranks, case.rule)


@pytest.mark.parametrize("case", points_cases.RELEASED, ids=lambda case: repr(case.formula))
def test_released_scores_are_those_worked_out_by_hand(case):
    assert released_score(case.formula, case.ranks, case.rule) == case.score


def test_released_score_of_a_whole_answer():
    misread = points_cases.RIGHT.replace(b'"K"', b'"Q"')
    score = {
        (text, visual): released_answer_score(text, (1, 3, 13, 6), FACES_IN_ORDER, visual=visual)
        for text in (points_cases.RIGHT, misread, b"", b"{}")
        for visual in (False, True)
    }
    assert list(score.values()) == [5, 5, 5, -1.5, -3, -3, -3, -3]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_laws_hold_and_every_flag_occurs_among_generated_answers(rule):
    texts, ranks = answers(0, 2000, rule)
    assert ranks.shape == (2000, rule.cards)
    assert max(map(len, texts)) <= 256
    count = Counter()
    for text, hand in zip(texts, ranks.tolist(), strict=True):
        check_laws(text, hand, rule)
        count.update(set_flags(text, hand, rule))
    assert set(count) == set(judge(b"", (1,), rule))
    assert min(count.values()) > 20


def test_a_seed_settles_the_answers():
    texts, ranks = answers(3, 50, FACES_AS_TEN)
    again, ranks_again = answers(3, 80, FACES_AS_TEN)
    assert again[:50] == texts
    np.testing.assert_array_equal(ranks_again[:50], ranks)
    assert answers(4, 50, FACES_AS_TEN)[0] != texts


@settings(max_examples=150)
@given(hypothesis_answers(FACES_IN_ORDER))
def test_laws_hold_for_whatever_hypothesis_finds(drawn):
    text, ranks = drawn
    check_laws(text, ranks, FACES_IN_ORDER)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_values_are_those_of_the_generator_and_right_formulas_are_correct(rule):
    rng = random.Random(1)
    for _ in range(500):
        _, formula, reached = random_game(rng, rule)
        tree = grow(formula_tokens(formula.encode()))
        if reached is None:
            with pytest.raises(ZeroDivisionError):
                value(tree, Fraction)
        else:
            assert value(tree, Fraction) == reached
    for ranks, formula in right_formulas(rule):
        text = points_cases.with_formula(formula.encode(), tuple(ranks), rule)
        assert set_flags(text, ranks, rule) == {"correct"}


def test_fields_are_those_that_json_reads():
    """Whatever JSON reads as an object with a formula, without another object in it, we read."""
    texts, _ = answers(5, 5000, FACES_IN_ORDER)
    compared = 0
    for text in texts:
        starts = [found.start() for found in BEGINNING.finditer(text)]
        if not starts:
            continue
        try:
            latin = text[starts[-1] :].decode("latin-1")
            decoder = json.JSONDecoder(strict=False, object_pairs_hook=tuple)
            pairs, _ = decoder.raw_decode(latin)
        except (ValueError, RecursionError):
            continue
        lists = [v for k, v in pairs if k in ("cards", "number", "numbers") and isinstance(v, list)]
        refused = any(isinstance(item, list) for items in lists for item in items)
        refused |= any(isinstance(value, tuple) for _, value in pairs)  # an object
        refused |= any(not isinstance(value, str) for key, value in pairs if key == "formula")
        loaded = dict(pairs)
        if "formula" not in loaded or refused:
            continue
        compared += 1
        fields = read_object(text)
        assert fields is not None, text
        if b"\\" not in fields.formula:
            assert fields.formula.decode("latin-1") == loaded["formula"]
        cards, number = (
            items if isinstance(items := loaded.get(name, []), list) else []
            for name in ("cards", "number")
        )
        if b"\\" in text:  # JSON may escape a letter, which we do not read
            continue
        assert [read_card(str(card).encode("latin-1")) for card in cards] == fields.cards
        if "numbers" not in loaded and all(type(item) is int for item in number):
            known = [n if n < 10**19 else 10**20 for n in number]
            assert [n if n >= 0 else None for n in known] == fields.number
    assert compared > 1000


@pytest.mark.slow
def test_the_released_solver_finds_what_it_was_seen_to_find():
    """Counts of the published code, run on every hand of four from 1 to 10."""
    found = {
        hand: released_solutions(hand, 24)
        for hand in itertools.combinations_with_replacement(range(1, 11), 4)
    }
    missed = {
        (hand, formula)
        for hand, formulas in found.items()
        for formula in formulas
        if value(grow(formula_tokens(formula.encode())), operator.truediv) != 24
    }
    assert sum(map(bool, found.values())) == 566
    assert sum(len(set(formulas)) for formulas in found.values()) == 27_387
    assert (len(missed), len({hand for hand, _ in missed})) == (68, 25)
    assert found[3, 3, 8, 8] == ["8/(3-8/3)"]
