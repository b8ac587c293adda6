"""What the base learns from, row by row: decoded as text and judged in plain Python."""

import collections
import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest

from experiments.general_points.mixture import (
    Counts,
    draw_rows,
    make_mixture,
    many_rules,
    small_vocabulary,
)
from rlrazor.runtime.mesh import compile_once, make_mesh, spread
from rlrazor.runtime.tokenizer import END
from rlrazor.tasks.general_points import prompts
from rlrazor.tasks.general_points.feedback import SEEN_ONLY, STUDY_SENTENCES, as_turn
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER, RANKS
from rlrazor.tasks.procedural.pieces import TASKS
from tests.oracles import points_judge, procedural_twin

pytestmark = pytest.mark.usefixtures("quick_compiles")

RULES = 3
COUNTS = Counts(points=8, terse=2, revised=3, failures=3, shown=2, prior=64)
KINDS = ("points", "terse", "revised", "shown", "prior")
SEEDS = range(6)
THREE = 3  # cards: a thirteenth of the prompts to tokenise
FOUR = pytest.param(4, marks=pytest.mark.slow)


@functools.cache
def vocabulary():
    return small_vocabulary()[1]


@functools.cache
def rules(cards):
    return [dataclasses.replace(rule, cards=cards) for rule in many_rules(RULES, seed=0)]


@functools.cache
def mixture_of(cards):
    return make_mixture(vocabulary(), rules(cards), np.ones(len(TASKS)))


@functools.cache
def program(cards):
    mesh = make_mesh(data=1)
    draw = compile_once(
        lambda mixture, key: draw_rows(mixture, key, COUNTS, lambda keys: spread(keys, mesh))
    )
    return lambda key: jax.device_get(draw(mixture_of(cards), key))


@functools.cache
def drawn(cards):
    """kind -> (tokens, mask, number of its rule) of every row, over several steps."""
    steps = [program(cards)(jax.random.key(seed)) for seed in SEEDS]
    of_rule = [
        np.repeat(np.arange(RULES), COUNTS.points), np.arange(COUNTS.terse),
        np.arange(COUNTS.revised), np.arange(COUNTS.shown), np.zeros(COUNTS.prior, int),
    ]  # fmt: skip
    return {
        kind: [row for step in steps for row in zip(*step[place], of_rule[place], strict=True)]
        for place, kind in enumerate(KINDS)
    }


def halves(tokens, mask):
    """Text before what is to be learnt, and that text without its end."""
    (places,) = np.nonzero(mask)
    first, last = places[0], places[-1]
    assert mask[first : last + 1].all()
    assert not tokens[last + 1 :].any()
    said = tokens[first:last].tolist()
    assert tokens[last] == END
    assert END not in said
    return tokens[:first].tolist(), vocabulary().decode(said)


def turns(tokens):
    """Texts between the ends in a list of tokens."""
    texts, rest = [], list(tokens)
    while END in rest:
        cut = rest.index(END)
        texts.append(vocabulary().decode(rest[:cut]))
        rest = rest[cut + 1 :]
    return [*texts, vocabulary().decode(rest)]


def opened(text, rule, wordings):
    """The hand that a text asks for under a rule, the wording, and what follows the prompt."""
    card = r'"(10|[A2-9JQK])"'
    names = re.search(", ".join([card] * rule.cards), text).groups()
    ranks = [RANKS.index(name) + 1 for name in names]
    for name in wordings:
        prompt = prompts.fill(prompts.load_template(name, visual=False), rule, ranks)
        if text.startswith(prompt):
            return ranks, name, text.removeprefix(prompt)
    raise AssertionError(text)


def wordings_of(place):
    """The frozen one and two of the others, in turn."""
    others = [
        prompts.DIVERSE_TEXT[i % len(prompts.DIVERSE_TEXT)] for i in (2 * place, 2 * place + 1)
    ]
    return [*prompts.FROZEN_TEXT, *others]


def check_reading(answer, ranks, rule):
    fields = json.loads(answer)
    assert fields["cards"] == [RANKS[rank - 1] for rank in ranks]
    assert fields["number"] == [rule.values[rank - 1] for rank in ranks]


def check_right(answer, ranks, rule, *, terse=False):
    flags = points_judge.judge(answer.encode(), ranks, rule)
    assert flags["correct"], answer
    if terse:
        assert answer.startswith('{"cards": [], "number": [], "formula": "')
    else:
        check_reading(answer, ranks, rule)
    assert any(rank > 10 for rank in ranks)  # the others say nothing about the rule


def words_about(answer, ranks, rule):
    """What the verifier says: the first failure that applies, in the order of the sentences."""
    flags = points_judge.judge(answer.encode(), ranks, rule)
    assert not flags["correct"], answer
    return as_turn(next(STUDY_SENTENCES[n] for n in STUDY_SENTENCES if flags[n] and n != SEEN_ONLY))


@pytest.mark.parametrize("cards", [THREE, FOUR])
def test_rows_answered_at_once_are_right_under_their_rule(cards):
    seen, formulas = collections.Counter(), set()
    for tokens, mask, place in drawn(cards)["points"]:
        before, answer = halves(tokens, mask)
        rule = rules(cards)[place]
        (text,) = turns(before)
        ranks, name, rest = opened(text, rule, wordings_of(place))
        assert rest == ""
        check_right(answer, ranks, rule)
        seen[place, name] += 1
        formulas.add(answer)
    assert set(seen) == {(place, name) for place in range(RULES) for name in wordings_of(place)}
    assert len(formulas) > 0.9 * sum(seen.values())


@pytest.mark.parametrize("cards", [THREE, FOUR])
def test_terse_rows_are_formulas_alone(cards):
    for tokens, mask, place in drawn(cards)["terse"]:
        before, answer = halves(tokens, mask)
        (text,) = turns(before)
        ranks, _, rest = opened(text, rules(cards)[place], prompts.TERSE_TEXT)
        assert rest == ""
        check_right(answer, ranks, rules(cards)[place], terse=True)


@pytest.mark.parametrize("cards", [THREE, FOUR])
def test_revised_rows_are_wrong_until_the_last(cards):
    failed, sentences = collections.Counter(), set()
    for tokens, mask, place in drawn(cards)["revised"]:
        before, answer = halves(tokens, mask)
        rule = rules(cards)[place]
        first, *others = turns(before)
        ranks, _, said = opened(first, rule, wordings_of(place))
        for text in others:
            words = words_about(said, ranks, rule)
            check_hand_named(said, ranks)
            assert text.startswith(words)
            sentences.add(words)
            said = text.removeprefix(words)
        assert said == ""
        check_right(answer, ranks, rule)
        failed[len(others)] += 1
    assert set(failed) == set(range(COUNTS.failures + 1))
    assert as_turn(STUDY_SENTENCES["wrong_value"]) in sentences
    assert as_turn(STUDY_SENTENCES["number_not_on_cards"]) in sentences


def check_hand_named(answer, ranks):
    """A wrong answer is written like a right one and names the cards that were dealt."""
    assert json.loads(answer)["cards"] == [RANKS[rank - 1] for rank in ranks]


@pytest.mark.parametrize("cards", [THREE, FOUR])
def test_shown_rows_are_answered_as_shown(cards):
    for tokens, mask, place in drawn(cards)["shown"]:
        before, answer = halves(tokens, mask)
        rule = rules(cards)[place]
        shown, asked = turns(before)
        ranks, name, first = opened(shown, rule, wordings_of(place))
        again, same_name, rest = opened(asked, rule, [name])
        assert (again, same_name, rest) == (ranks, name, "")
        assert first == answer
        check_right(answer, ranks, rule)


def test_prior_rows_are_right_and_never_held_out():
    asked = set()
    for tokens, mask, _ in drawn(THREE)["prior"]:
        before, answer = halves(tokens, mask)
        (question,) = turns(before)
        assert procedural_twin.solve(question.strip()) == answer.strip()
        assert not procedural_twin.held_out(question.strip())
        asked.add(question.split()[0])
    assert asked == set(TASKS)


def test_rows_follow_from_the_key_alone_and_no_two_keys_draw_alike():
    first, again, other = (program(THREE)(jax.random.key(seed)) for seed in (0, 0, 1))
    for (a, _), (b, _), (c, _) in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any(axis=1).mean() > 0.9
    for tokens, _ in first[:-1]:
        assert len({row.tobytes() for row in tokens}) == len(tokens)


def test_many_rules_begin_with_the_studys_and_never_repeat():
    found = many_rules(50, seed=3)
    assert [rule.values for rule in found[:2]] == [FACES_AS_TEN.values, FACES_IN_ORDER.values]
    assert len({rule.values for rule in found}) == 50
    for rule in found:
        assert rule.needs_face_card
        assert rule.values[:10] == tuple(range(1, 11))
        assert all(1 <= value <= 13 for value in rule.values[10:])
    assert found[:9] == many_rules(9, seed=3)
    assert found[2:] != many_rules(50, seed=4)[2:]


def shapes(counts):
    """(B, T) of every kind drawn; nothing is computed."""
    rows = jax.eval_shape(
        lambda mixture, key: draw_rows(mixture, key, counts, lambda keys: keys),
        mixture_of(THREE),
        jax.random.key(0),
    )
    return [tokens.shape for tokens, _ in rows]


@pytest.mark.parametrize("field", ["terse", "revised", "shown"])
def test_more_rules_than_there_are_is_an_error(field):
    counts = dataclasses.replace(COUNTS, **{field: RULES + 1})
    with pytest.raises(ValueError, match=f"at most {RULES} rules; got {RULES + 1}"):
        shapes(counts)


@pytest.mark.parametrize("field", ["points", "terse", "revised", "shown"])
def test_a_kind_without_rows_is_left_out(field):
    kinds = dict(zip(KINDS, shapes(COUNTS), strict=True))
    del kinds[field]
    assert shapes(dataclasses.replace(COUNTS, **{field: 0})) == list(kinds.values())


@pytest.mark.parametrize(("field", "count"), [("points", -1), ("terse", -1), ("prior", 0)])
def test_impossible_counts_are_named(field, count):
    with pytest.raises(ValueError, match=f"those of prior tasks above 0; got .*{field}={count}"):
        dataclasses.replace(COUNTS, **{field: count})


def test_one_vocabulary_spells_all_that_is_said():
    tokenizer, words = small_vocabulary()
    names = (*prompts.FROZEN_TEXT, *prompts.DIVERSE_TEXT, *prompts.TERSE_TEXT)
    rule = many_rules(3, seed=0)[2]
    texts = [
        prompts.fill(prompts.load_template(n, visual=False), rule, (1, 10, 11, 13)) for n in names
    ]
    texts += [as_turn(sentence) for sentence in STUDY_SENTENCES.values()]
    for text in texts:
        ids = words.encode_inside(text)
        assert words.decode(ids) == text
        assert END not in ids
        assert len(ids) < 40
    assert tokenizer.get_vocab_size() < 400
