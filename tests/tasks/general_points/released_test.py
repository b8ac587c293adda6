import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.tasks.general_points.released import find_refusals, released
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER
from rlrazor.tasks.general_points.verifier import verify
from tests.oracles.points_answers import answers
from tests.oracles.points_cases import RELEASED, with_formula
from tests.oracles.points_released import released_answer_score, released_solutions
from tests.tasks.general_points.verifier_test import BATCH, pack

REFUSALS = {rule: find_refusals(rule) for rule in (FACES_IN_ORDER, FACES_AS_TEN)}


@functools.partial(jax.jit, static_argnames="visual")
def scored(texts, hands, values, target, refusals, visual):
    def score(text, hand):
        return released(verify(text, hand, values, target), refusals, visual)

    return jax.vmap(score)(texts, hands)


def scores(texts, ranks, rule, visual=False):
    rows = pack(texts)
    hands = np.resize(np.array(ranks, np.int32), (len(rows), rule.cards))
    values, target = jnp.array(rule.values), jnp.int32(rule.target)
    found = []
    for start in range(0, len(rows), BATCH):
        batch = slice(start, start + BATCH)
        found += scored(
            rows[batch], hands[batch], values, target, REFUSALS[rule], visual=visual
        ).tolist()
    return found[: len(texts)]


def test_scores_as_seen_or_worked_out_by_hand():
    # A brace cannot stand at the end of a formula: with the quote behind it begins an object.
    cases = [c for c in RELEASED if c.rule == FACES_IN_ORDER and not c.formula.endswith(b"{")]
    texts = [with_formula(case.formula, case.ranks) for case in cases]
    found = scores(texts, [case.ranks for case in cases], FACES_IN_ORDER)
    for case, score in zip(cases, found, strict=True):
        assert score == case.score, case


@pytest.mark.parametrize("hand", [(3, 3, 8, 8), (1, 3, 5, 9), (1, 2, 3, 4), (1, 5, 5, 5)])
def test_scores_the_solver_s_own_texts_and_their_beginnings(hand):
    own = released_solutions(hand, 24)
    texts = [solution[:end] for solution in own for end in range(1, len(solution) + 1)]
    texts += [f"({solution})" for solution in own] + [f"{solution}=99" for solution in own]
    texts = sorted(set(texts))[:4000]
    rows = [with_formula(text.encode(), hand) for text in texts]
    found = scores(rows, [hand] * len(rows), FACES_IN_ORDER)
    for row, score in zip(rows, found, strict=True):
        assert score == released_answer_score(row, hand, FACES_IN_ORDER, own), row
    assert hand == (1, 2, 3, 4) or 0.0 in found or hand == (1, 5, 5, 5)
    assert 1.0 in found


@pytest.mark.slow
@pytest.mark.parametrize("visual", [False, True])
def test_agrees_with_the_twin_on_generated_answers(visual):
    texts, ranks = answers(seed=3, count=10_000, rule=FACES_AS_TEN)
    found = scores(texts, ranks, FACES_AS_TEN, visual)
    for text, hand, score in zip(texts, ranks, found, strict=True):
        hand = tuple(hand.tolist())
        assert score == released_answer_score(text, hand, FACES_AS_TEN, visual=visual), text


def test_misread_cards_end_the_judgement_of_a_picture_only():
    text = with_formula(b"(1+2+3)*4", (1, 2, 3, 4)).replace(b'["A"', b'["K"')
    assert scores([text], [(1, 2, 3, 4)], FACES_IN_ORDER) == [5.0]
    assert scores([text], [(1, 2, 3, 4)], FACES_IN_ORDER, visual=True) == [-1.5]


def test_floats_refuse_the_known_hand_only_where_they_fail():
    texts = [
        with_formula(f, (3, 3, 8, 8)) for f in (b"8/(3-8/3)", b"((8)/(3-(8/3)))", b"8/(3-8/3)+0")
    ]
    assert scores(texts, [(3, 3, 8, 8)] * 3, FACES_IN_ORDER) == [0.0, -1.0, -2.0]
    exact = with_formula(b"5*(5-1/5)", (1, 5, 5, 5))
    assert scores([exact], [(1, 5, 5, 5)], FACES_IN_ORDER) == [5.0]


def test_knows_hands_of_four_only():
    with pytest.raises(ValueError, match="released scores exist for hands of 4 cards, not of 5"):
        find_refusals(dataclasses.replace(FACES_AS_TEN, cards=5))
