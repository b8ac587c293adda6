"""Rules: what they refuse."""

import dataclasses

import pytest

from rlrazor.tasks.general_points.rule import (
    FACES_AS_TEN,
    FACES_IN_ORDER,
    SUITS,
    Rule,
    face_values,
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
        ({"cards": 4.0}, r"cards=4\.0 must be 3, 4 or 5"),
        ({"cards": "4"}, "cards='4' must be"),
        ({"cards": None}, "cards=None must be"),
        ({"values": None}, "values=None must be a tuple"),
        ({"values": (None, *VALUES[1:])}, "the value of A is None"),
        ({"suits": None}, "suits=None must be a tuple"),
        ({"with_replacement": "no"}, "with_replacement='no' must be True or False"),
        ({"needs_face_card": 1}, "needs_face_card=1 must be True or False"),
        ({"forces_face_card": None}, "forces_face_card=None must be True or False"),
        (
            {"forces_face_card": True, "with_replacement": False},
            "forces_face_card=True .* give with_replacement=True, or needs_face_card=True",
        ),
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
