"""What the leaking words give away, against a slow twin over the texts of all solutions."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.tasks.general_points.feedback import SENTENCES
from rlrazor.tasks.general_points.leak import AFTER, BEFORE, leak_table, longest_beginning
from rlrazor.tasks.general_points.pieces import PIECES, piece_table
from rlrazor.tasks.general_points.rule import FACES_IN_ORDER
from tests.oracles import points_judge, points_solver, tiny_points
from tests.oracles.points_answers import answers
from tests.oracles.tiny_points import AS_TEN, IN_ORDER

BATCH, GAMES = 96, 384
begin = tiny_points.jit(jax.vmap(longest_beginning, in_axes=(0, 0, None)))


@functools.cache
def solutions(numbers, target):
    return [re.findall(r"\d+|\D", text) for text in points_solver.formulas(numbers, target)]


def beginning_of(text, ranks, rule):
    """The longest beginning of the formula that also begins a solution, token by token."""
    fields = points_judge.read_object(text)
    assert fields is not None
    left = points_judge.plainly(fields.formula).decode().split("=")[0]
    tokens = re.findall(r"\d+|[-+*/()]", left)
    longest = 0
    for solution in solutions(tuple(sorted(rule.values[r - 1] for r in ranks)), rule.target):
        agrees = [a == b for a, b in zip(tokens, solution, strict=False)]
        longest = max(longest, [*agrees, False].index(False))
    return "".join(tokens[:longest])


def judged(rule, seed, count):
    texts, hands = answers(seed, count, rule)
    flags = [points_judge.judge(text, hand, rule) for text, hand in zip(texts, hands, strict=True)]
    return texts, hands, flags


@pytest.mark.parametrize("rule", [AS_TEN, FACES_IN_ORDER], ids=["three", "four"])
def test_the_longest_beginning_is_that_of_the_twin(rule):
    """Of every legal formula, right or wrong, however long."""
    texts, hands, flags = judged(rule, seed=3, count=300)
    legal = [
        not (flag["no_object"] or flag["malformed_field"] or flag["illegal_formula"])
        for flag in flags
    ]
    kept = np.flatnonzero(legal)[:BATCH]
    assert len(kept) == BATCH
    numbers = jnp.asarray(np.array(rule.values, np.int32)[hands[kept] - 1])
    rows = tiny_points.as_bytes(*[texts[i] for i in kept], size=256)
    found = np.asarray(begin(rows, numbers, jnp.int32(rule.target)))
    assert found.shape == (BATCH, 4 * rule.cards - 5)
    lengths = set()
    for pieces, i in zip(found, kept, strict=True):
        expected = beginning_of(texts[i], hands[i], rule)
        assert "".join(PIECES[p] for p in pieces) == expected, texts[i]
        assert np.all(np.trim_zeros(pieces, "b") > 0)
        lengths.add(np.count_nonzero(pieces))
    assert lengths >= {0, 1, 2, 3}
    assert max(lengths) > 3
    assert max(lengths) >= 4 * rule.cards - 7


@pytest.mark.parametrize(
    ("formula", "beginning"),
    [
        ("2*3+4", "2*3"),
        ("2*3", "2*3"),  # no card may be left out of a formula, but a beginning may end early
        ("(2*3)*4", ""),  # a needless bracket begins no solution
        ("4*3*2", "4*3*2"),
        ("4*3*2=25", "4*3*2"),
        ("4/(2/3)", "4"),
        (" 2 * 3 - 4 ", "2*3"),
        ("9+3+4", ""),
    ],
)
def test_beginnings_worked_out_by_hand(formula, beginning):
    """2, 3 and 4 make 24 as a product in any of six orders, and in no other way."""
    assert len(points_solver.formulas((2, 3, 4), 24)) == 6
    text = tiny_points.answer(formula, (2, 3, 4))
    rows = np.repeat(tiny_points.as_bytes(text, size=256), BATCH, axis=0)
    hand = jnp.tile(jnp.array([2, 3, 4], jnp.int32), (BATCH, 1))
    pieces = np.asarray(begin(rows, hand, jnp.int32(24)))[0]
    expected = beginning_of(text.encode(), (2, 3, 4), AS_TEN)
    assert "".join(PIECES[p] for p in pieces) == expected == beginning


@functools.cache
def leaking_task():
    return tiny_points.make(AS_TEN, leak=True)


def after_answers(task, texts, hands):
    """What is said after each answer to its hand."""
    keys = jax.random.split(jax.random.key(0), GAMES)
    states = jax.vmap(tiny_points.with_hand)(tiny_points.resets(task, keys), jnp.array(hands))
    after, _ = tiny_points.steps(task, states, tiny_points.as_bytes(*texts, size=200))
    lengths = np.asarray(after.words_length)
    return [tiny_points.decoded(*row) for row in zip(after.words, lengths, strict=True)]


def left_side_is_right(text):
    fields = points_judge.read_object(text)
    assert fields is not None
    formula = points_judge.read_formula(fields.formula)
    return points_judge.left_side_reaches(formula, AS_TEN.target)


def test_words_leak_only_where_the_value_is_wrong():
    task = leaking_task()
    texts, hands, _ = judged(AS_TEN, seed=4, count=GAMES)
    texts = [text[:200] for text in texts]
    said = after_answers(task, texts, hands)
    leaked = 0
    for text, hand, heard in zip(texts, hands, said, strict=True):
        flags = points_judge.judge(text, hand, AS_TEN)
        flags["wrong_right_side"] = flags["wrong_value"] and left_side_is_right(text)
        leaks = flags["wrong_value"] and not flags["wrong_right_side"]
        given_away = beginning_of(text, hand, AS_TEN) if leaks else ""
        first = [name for name in SENTENCES if flags[name] and name != "cards_misread"]
        words = f"\n{SENTENCES[first[0]]}\n" if first else ""
        words = f"\n{BEFORE}{given_away}{AFTER}\n" if given_away else words
        assert heard == words, text
        leaked += bool(given_away)
    assert 10 < leaked < len(texts) / 2


def test_the_leak_goes_by_the_judges_rule_and_target():
    """K is 13 for this judge: (13-4)*3 = 27, and 4*3+13 = 25."""
    hand = (3, 4, 13)
    task = leaking_task()
    for rule, target, given_away in (
        (AS_TEN, 22, "3*4"),
        (IN_ORDER, 25, "3*4"),
        (IN_ORDER, 22, "3"),
    ):
        judge = dataclasses.replace(
            task, values=jnp.array(rule.values, jnp.int32), target=jnp.int32(target)
        )
        text = tiny_points.answer(f"3*4-{rule.values[12]}", hand, rule)
        words = after_answers(judge, [text] * GAMES, [hand] * GAMES)[0]
        numbers = tuple(sorted(rule.values[rank - 1] for rank in hand))
        if points_solver.formulas(numbers, target):
            assert words == f"\n{BEFORE}{given_away}{AFTER}\n"
        else:
            assert BEFORE not in words


def test_words_of_the_users_own_are_spelled():
    words = piece_table(tiny_points.vocabulary().encode_inside, tiny_points.vocabulary().decode)
    table = leak_table(words, tiny_points.vocabulary(), before="No: ", after="!")
    spelled = [
        tiny_points.tokenizer().decode(np.asarray(row)[:length].tolist())
        for row, length in zip(table.tokens[-2:], table.lengths[-2:], strict=True)
    ]
    assert spelled == ["\nNo: ", "!\n"]
    np.testing.assert_array_equal(table.lengths[:-2], words[1])
