import dataclasses
import itertools
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from rlrazor.ops.spelling import spell
from rlrazor.tasks.general_points import pieces
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER, Rule, face_values
from rlrazor.tasks.general_points.solver import distinct, formula_pieces, solutions
from rlrazor.tasks.general_points.verifier import FAILURES, evaluate, verify
from tests.oracles.points_answers import answers, hypothesis_answers
from tests.oracles.points_cases import CASES, FIVE, HAND, RIGHT, THREE, with_formula
from tests.oracles.points_judge import judge

LENGTH = 256  # bytes; what tests.oracles.points_answers makes is never longer
LONG = 1536
VERY_LONG = 6000
ODD = Rule(values=(0, *range(2, 11), 1, 50, 20), target=0)  # zeros, a worthless ace, a zero target


BATCH = 1024  # answers judged at once, so that few programs are compiled


@jax.jit
def judged(texts, ranks, values, target):
    findings = jax.vmap(verify, in_axes=(0, 0, None, None))(texts, ranks, values, target)
    return {**findings.failures, "correct": findings.correct}


def pack(texts, length=LENGTH):
    rows = np.zeros((-(-len(texts) // BATCH) * BATCH, length), np.uint8)
    for row, text in zip(rows, texts, strict=False):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return rows


def on_device(texts, ranks, rule, length=LENGTH):
    rows = pack(texts, length)
    hands = np.resize(np.array(ranks, np.int32), (len(rows), rule.cards))
    flags = []
    for start in range(0, len(rows), BATCH):
        batch = slice(start, start + BATCH)
        found = judged(rows[batch], hands[batch], jnp.array(rule.values), jnp.int32(rule.target))
        columns = np.array([np.asarray(flag) for flag in found.values()])
        flags += [dict(zip(found, column, strict=True)) for column in columns.T.tolist()]
    return flags[: len(texts)]


def check_agreement(texts, ranks, rule):
    for text, hand, found in zip(texts, ranks, on_device(texts, ranks, rule), strict=True):
        expected = judge(text, hand, rule)
        assert found == expected, (text, hand)


@pytest.mark.parametrize("rule", sorted({case.rule for case in CASES}, key=str))
def test_judges_as_worked_out_by_hand(rule):
    cases = [c for c in CASES if c.rule == rule]
    found = on_device([c.text for c in cases], [c.ranks for c in cases], rule, VERY_LONG)
    for case, flags in zip(cases, found, strict=True):
        assert {name for name, flag in flags.items() if flag} == set(case.flags.split()), case


@pytest.mark.parametrize(
    "rule", [FACES_IN_ORDER, FACES_AS_TEN, THREE, FIVE, ODD], ids=["order", "ten", "3", "5", "odd"]
)
def test_agrees_with_the_twin_on_generated_answers(rule):
    texts, ranks = answers(seed=20, count=4_000, rule=rule)
    check_agreement(texts, ranks, rule)


@pytest.mark.slow
def test_agrees_with_the_twin_on_very_many_answers():
    """200,000 strings, or as many as RLRAZOR_FUZZ_STRINGS says, from RLRAZOR_FUZZ_SEED on."""
    rules = (FACES_IN_ORDER, FACES_AS_TEN, FIVE, ODD)
    left = int(os.environ.get("RLRAZOR_FUZZ_STRINGS", "200000"))
    seed = int(os.environ.get("RLRAZOR_FUZZ_SEED", "1000"))
    while left > 0:
        count = min(left, 20_000)
        rule = rules[seed % len(rules)]
        texts, ranks = answers(seed=seed, count=20_000, rule=rule)
        check_agreement(texts[:count], ranks[:count], rule)
        left, seed = left - count, seed + 1


@settings(max_examples=200)
@given(hypothesis_answers(FACES_IN_ORDER))
def test_agrees_with_the_twin_on_any_answer(answer):
    text, ranks = answer
    check_agreement([text[:LENGTH]], [ranks], FACES_IN_ORDER)


@settings(max_examples=100)
@given(hypothesis_answers(ODD))
def test_agrees_with_the_twin_under_an_odd_rule(answer):
    text, ranks = answer
    check_agreement([text[:LENGTH]], [ranks], ODD)


@pytest.mark.parametrize("nested", [1, 100, 450, 700])
def test_brackets_may_be_nested_to_any_depth(nested):
    formula = b"(" * nested + b"(13-1)*6" + b")" * nested + b"/3"
    for text, correct in ((formula, True), (formula[1:], False), (formula[:-3] + b"/3", False)):
        (flags,) = on_device([with_formula(text)], [HAND], FACES_IN_ORDER, LONG)
        assert flags["correct"] == correct
        assert flags["illegal_formula"] != correct


@pytest.mark.parametrize("formula", [b"13-1)*(6/3", b"(13-1))*((6/3)", b"13)-(1*6/3"])
def test_brackets_that_balance_in_the_wrong_order_are_illegal(formula):
    (flags,) = on_device([with_formula(formula)], [HAND], FACES_IN_ORDER)
    assert flags == judge(with_formula(formula), HAND, FACES_IN_ORDER)
    assert flags["illegal_formula"]


@pytest.mark.parametrize(
    "text",
    [
        b"{" * LENGTH,
        b"}" * LENGTH,
        b"{}" * (LENGTH // 2),
        b"\0" * LENGTH,
        b"\xff" * LENGTH,
        b"9" * LENGTH,
        b'{"formula":"' + b"(" * 200 + b'"}',
        b'{"formula":"' + b"9" * 200 + b'"}',
        with_formula(b"1" * 180),
        with_formula("\uff11+\uff12".encode()),
        with_formula(b"(13-1)*6\0/3"),
        with_formula(b"__import__('os')"),
    ],
)
def test_hostile_text_is_a_verdict_of_the_same_program(text):
    (flags,) = on_device([text], [HAND], FACES_IN_ORDER)
    assert flags == judge(text, HAND, FACES_IN_ORDER)
    assert not flags["correct"]


def test_padding_and_the_length_of_a_row_change_nothing():
    texts = [case.text for case in CASES if case.rule == FACES_IN_ORDER and len(case.text) <= 128]
    hands = [HAND] * len(texts)
    short = on_device(texts, hands, FACES_IN_ORDER)
    assert short == on_device(texts, hands, FACES_IN_ORDER, LONG)


def test_rule_and_target_are_data():
    def flags(rule):
        (found,) = on_device([RIGHT], [HAND], rule)
        return found

    assert flags(FACES_IN_ORDER)["correct"]
    assert flags(FACES_AS_TEN)["number_not_on_cards"]
    assert flags(FACES_AS_TEN)["numbers_mistranslated"]
    assert flags(dataclasses.replace(FACES_IN_ORDER, target=23))["wrong_value"]


def test_one_answer_alone_is_judged_as_in_a_batch():
    cases = [case for case in CASES if case.rule == FACES_IN_ORDER and len(case.text) <= LENGTH][:9]
    values, target = jnp.array(FACES_IN_ORDER.values), jnp.int32(24)
    alone = jax.jit(chex.assert_max_traces(verify, n=1))
    together = on_device([c.text for c in cases], [c.ranks for c in cases], FACES_IN_ORDER)
    for case, flags in zip(cases, together, strict=True):
        findings = alone(pack([case.text])[0], jnp.array(case.ranks), values, target)
        assert {**findings.failures, "correct": findings.correct} == flags


def test_every_solution_of_every_hand_is_right():
    """All 32,145 distinct formulas of the 1,362 hands from 1 to 13 that 24 can be made of."""
    hands = np.array(list(itertools.combinations_with_replacement(range(1, 14), 4)), np.int32)
    solved = jax.jit(lambda h: jax.lax.map(lambda n: distinct(n, solutions(n, 24)), h))(hands)
    index, *names = np.nonzero(np.asarray(solved))
    assert len(set(index)) == 1_362
    table, lengths = pieces.byte_table()

    @jax.jit
    @jax.vmap
    def answer(hand, *name):
        formula = formula_pieces(hand, *name)
        text = pieces.expert_answer(hand, hand, formula, jnp.int32(24))
        return spell(text, table, lengths, LENGTH)[0]

    rows = np.asarray(answer(hands[index], *names))
    values = jnp.array(FACES_IN_ORDER.values)
    whole = len(rows) // BATCH * BATCH  # the rest with the last batch, which overlaps
    for start in [*range(0, whole, BATCH), len(rows) - BATCH]:
        batch = slice(start, start + BATCH)
        found = judged(rows[batch], hands[index[batch]], values, jnp.int32(24))
        assert found.pop("correct").all()
        assert not any(flag.any() for flag in found.values())
    for row, hand in zip(rows, hands[index].tolist(), strict=True):
        text = bytes(row).rstrip(b"\0")
        assert judge(text, hand, FACES_IN_ORDER)["correct"], text


def test_every_failure_is_named():
    assert list(judge(b"", HAND, FACES_IN_ORDER)) == [*FAILURES, "correct"]


def test_refuses_rows_of_no_bytes():
    with pytest.raises(ValueError, match="answers of 0 bytes cannot be judged"):
        on_device([b""], [HAND], FACES_IN_ORDER, 0)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_object_is_found_however_long_the_thoughts_are(place):
    thoughts = b'Let {8, 3} be "it". ' * 250
    text = thoughts + RIGHT if place == "before" else RIGHT + thoughts
    assert len(text) > 5000
    (flags,) = on_device([text], [HAND], FACES_IN_ORDER, VERY_LONG)
    assert {name for name, flag in flags.items() if flag} == {"correct"}


def test_division_by_zero_has_no_value():
    for formula in (b"1/(3-3)", b"0/(3-3)", b"3-1/(3-3)*0"):
        numbers = [1, 3, 3, 0] if b"*" in formula else [int(formula[:1]), 3, 3]
        rule = Rule(values=(*face_values(11, 12, 13)[:-1], 0), cards=max(3, len(numbers)), target=0)
        ranks = [13 if n == 0 else n for n in numbers]
        (flags,) = on_device([with_formula(formula, tuple(ranks), rule)], [ranks], rule)
        assert flags == judge(with_formula(formula, tuple(ranks), rule), ranks, rule)
        assert not flags["correct"]


def test_evaluates_by_tightness_then_from_the_left():
    # ((8 - 2) - 3) * 5, the brackets given by depths alone.
    numbers, operators = jnp.array([8, 2, 3, 5]), jnp.array([1, 1, 2])
    (top, bottom), left_sizes = evaluate(numbers, operators, jnp.array([4, 2, 1]))
    assert top == 15 * bottom
    assert left_sizes.tolist() == [1, 2, 3]
    (top, bottom), left_sizes = evaluate(numbers, operators, jnp.array([0, 0, 1]))
    assert top == (8 - 2 - 15) * bottom
    assert left_sizes.tolist() == [1, 2, 1]
