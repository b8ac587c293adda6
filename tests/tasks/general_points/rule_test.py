"""Rules: what they refuse, and what the preset shifts change."""

import dataclasses

import pytest

from rlrazor.tasks.general_points.rule import (
    BLACK,
    FACES_AS_TEN,
    FACES_IN_ORDER,
    RED,
    SUITS,
    Rule,
    diverse_rule_shift,
    face_values,
    paper_rule_shift,
    slides_rule_shift,
    visual_shift,
)

VALUES = face_values(10, 10, 10)


def test_the_two_rules_of_the_study():
    assert FACES_AS_TEN.values == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10)
    assert FACES_IN_ORDER.values == tuple(range(1, 14))
    for rule in (FACES_AS_TEN, FACES_IN_ORDER):
        assert (rule.target, rule.cards, rule.suits) == (24, 4, SUITS)
        assert (rule.with_replacement, rule.needs_face_card) == (True, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": -1}, "target is -1; it must be an integer from 0 to 99998"),
        ({"target": 99_999}, "target is 99999; it must be an integer from 0 to 99998"),
        ({"target": 24.0}, r"target is 24\.0; it must be"),
        ({"target": True}, "target is True; it must be"),
        ({"cards": 2}, "cards=2 must be 3, 4 or 5"),
        ({"cards": 6}, "cards=6 must be 3, 4 or 5"),
        ({"cards": True}, "cards=True must be"),
        ({"values": VALUES[1:]}, "values has 12 entries; give 13, one each for A, 2, 3, "),
        ({"values": (*VALUES, 1)}, "values has 14 entries"),
        ({"values": (-1, *VALUES[1:])}, "the value of A is -1; it must be an integer from 0 to 99"),
        ({"values": (*VALUES[:-1], 1000)}, "the value of K is 1000; it must be .* to 999"),
        ({"values": (*VALUES[:-2], 1.5, 1)}, r"the value of Q is 1\.5"),
        ({"values": (True, *VALUES[1:])}, "the value of A is True"),
        ({"suits": ()}, r"suits=\(\) must name one or more of spades, hearts, diamonds, clubs"),
        ({"suits": ("spades", "stars")}, "'stars'.* must name one or more of spades"),
        ({"suits": ("spades", "spades")}, "must name .* each once"),
        ({"suits": "spades"}, "suits='spades' must name one or more"),
    ],
)
def test_mistakes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FACES_AS_TEN, **change)


@pytest.mark.parametrize(
    ("largest", "cards", "highest_target"),
    [(10, 4, 99_998), (13, 4, 55_899), (13, 5, 3_991), (95, 4, 24), (72, 5, 0), (999, 3, 1)],
)
def test_a_rule_ends_where_exact_arithmetic_does(largest, cards, highest_target):
    assert (largest + 1) ** cards * (highest_target + 1) < 2**31
    values = (*VALUES[:-1], largest)
    Rule(values=values, cards=cards, target=highest_target)
    if highest_target < 99_998:
        assert (largest + 1) ** cards * (highest_target + 2) >= 2**31
        with pytest.raises(ValueError, match=rf"values up to {largest} on {cards} .* below 2\^31"):
            Rule(values=values, cards=cards, target=highest_target + 1)


def test_the_papers_direction_and_that_of_the_slides():
    faced = {
        rule: dataclasses.replace(rule, needs_face_card=True)
        for rule in (FACES_AS_TEN, FACES_IN_ORDER)
    }
    paper, slides = paper_rule_shift(), slides_rule_shift()
    assert (paper.train, paper.test) == (FACES_AS_TEN, {"faces_in_order": faced[FACES_IN_ORDER]})
    assert (slides.train, slides.test) == (FACES_IN_ORDER, {"faces_as_ten": faced[FACES_AS_TEN]})


@pytest.mark.parametrize("rule", [FACES_AS_TEN, FACES_IN_ORDER])
def test_the_visual_shift_changes_colours_alone(rule):
    shift = visual_shift(rule)
    (name, test), *others = shift.test.items()
    assert (name, others) == ("red_suits", [])
    assert (shift.train.suits, test.suits) == (BLACK, RED)
    assert set(BLACK) | set(RED) == set(SUITS)
    assert not set(BLACK) & set(RED)
    for half in (shift.train, test):
        assert dataclasses.replace(half, suits=SUITS) == rule


def test_the_diverse_families():
    shift = diverse_rule_shift()
    assert shift.train == FACES_AS_TEN
    faces = {name: rule.values[-3:] for name, rule in shift.test.items()}
    assert faces == {
        "all_5": (5, 5, 5),
        "all_7": (7, 7, 7),
        "all_12": (12, 12, 12),
        "faces_in_order": (11, 12, 13),
        "large": (14, 15, 16),
        "five_cards": (10, 10, 10),
    }
    for name, rule in shift.test.items():
        assert rule.values[:10] == tuple(range(1, 11))
        assert rule.cards == (5 if name == "five_cards" else 4)
        assert rule.needs_face_card == (name != "five_cards")
        assert rule != shift.train
