"""GeneralPoints as it is played: dealt, asked, judged, told what was wrong, ended."""

import dataclasses
import json
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.runtime import tokenizer as tk
from rlrazor.tasks.general_points import prompts
from rlrazor.tasks.general_points.feedback import SENTENCES
from rlrazor.tasks.general_points.released import Refusals, find_refusals
from rlrazor.tasks.general_points.rewards import BINARY, PAPER, PAPER_VISUAL
from rlrazor.tasks.general_points.rule import BLACK, FACES_IN_ORDER, RANKS, RED, Rule, face_values
from rlrazor.tasks.general_points.task import LONGEST_BUDGET, make_general_points, make_look
from tests.oracles import points_judge, tiny_points
from tests.oracles.tiny_points import (
    AS_TEN,
    FIVE_CARDS,
    IN_ORDER,
    answer,
    as_bytes,
    decoded,
    make,
    play,
    said,
    set_flags,
    start,
)

HAND = (2, 3, 4)
RIGHT, WRONG = answer("2*3*4=24", HAND), answer("2+3+4=24", HAND)
KEYS = jax.random.split(jax.random.key(1), 8)
FOUR_SEEN = {"visual": True, "refusals": True}


def with_budget(task, budget):
    return dataclasses.replace(task, budget=jnp.int32(budget))


def test_a_game_from_the_first_prompt_to_the_right_answer():
    task = make()
    state = start(task, HAND)
    assert said(task, state) == prompts.fill(tiny_points.templates()[state.wording], AS_TEN, HAND)
    assert (int(state.turn), bool(state.terminated), bool(state.truncated)) == (0, False, False)
    for turn, (text, flag) in enumerate(
        [("no", "no_object"), (WRONG, "wrong_value"), (RIGHT, "")], start=1
    ):
        state, verdict = play(task, state, text)
        assert set_flags(verdict) == {flag} - {""}
        assert said(task, state) == (f"\n{SENTENCES[flag]}\n" if flag else "")
        assert (int(state.turn), bool(state.terminated)) == (turn, flag == "")
        assert not state.truncated
    assert (bool(verdict.correct), float(verdict.reward)) == (True, 5.0)
    chex.assert_type([verdict.reward, verdict.correct], [jnp.float32, bool])


def test_a_batch_is_many_games():
    task = make()
    states = tiny_points.resets(task, KEYS)
    answers, lengths = tiny_points.demonstrate(task, KEYS, states)
    texts = [decoded(*row) for row in zip(answers, lengths, strict=True)]
    texts[::2] = ["{}"] * 4
    after, verdicts = tiny_points.steps(task, states, as_bytes(*texts))
    asked = tiny_points.observes(task, after)
    assert verdicts.correct.tolist() == [False, True] * 4
    for i, key in enumerate(KEYS[:3]):
        state = tiny_points.reset(task, key)
        state, verdict = play(task, state, texts[i])
        solo = state, verdict, tiny_points.observe(task, state)
        batch = jax.tree.map(lambda x, i=i: x[i], (after, verdicts, asked))
        chex.assert_trees_all_equal(solo, batch)


@pytest.mark.parametrize("budget", range(1, LONGEST_BUDGET + 1))
def test_as_many_answers_are_judged_as_the_budget_has(budget):
    task = with_budget(make(), budget)
    state = start(task, HAND)
    for turn in range(1, budget + 1):
        before = state
        state, verdict = play(task, state, WRONG)
        assert set_flags(verdict) == {"wrong_value"}
        assert (int(state.turn), bool(state.truncated)) == (turn, turn == budget)
    solved, verdict = play(task, before, RIGHT)  # on the last turn
    assert (bool(solved.terminated), bool(solved.truncated)) == (True, False)
    assert set_flags(verdict) == set()
    for ended in (state, solved):
        for text in (RIGHT, WRONG, ""):
            after, verdict = play(task, ended, text)
            assert set_flags(verdict) == {"over_budget"}
            assert (bool(verdict.correct), float(verdict.reward)) == (False, -1.0)
            chex.assert_trees_all_equal(after, ended)


def test_the_budget_is_the_one_that_was_asked_for():
    assert int(make(wordings=1, budget=7).budget) == 7


RULES = {
    "three": (AS_TEN, {}),
    "three, of another target": (dataclasses.replace(AS_TEN, target=12, suits=RED), {}),
    "four, seen": (FACES_IN_ORDER, FOUR_SEEN),
}


FIVE = pytest.param(FIVE_CARDS, {"visual": True}, marks=pytest.mark.slow, id="five, seen")


@pytest.mark.parametrize(
    ("rule", "options"), [*(pytest.param(*rule, id=name) for name, rule in RULES.items()), FIVE]
)
def test_a_demonstration_is_correct_and_written_as_documented(rule, options):
    task = make(rule, **options)
    states = tiny_points.resets(task, KEYS)
    answers, lengths = tiny_points.demonstrate(task, KEYS, states)
    assert answers.shape == (len(KEYS), task.demonstration_size)
    texts = [decoded(*row) for row in zip(answers, lengths, strict=True)]
    assert len(set(texts)) > 4
    hands = states.hand.ranks.tolist()
    for text, ranks in zip(texts, hands, strict=True):
        formula = json.loads(text)["formula"]
        assert text == answer(formula, ranks, rule)
        assert re.fullmatch(rf"[-+*/()0-9]+={rule.target}", formula)
        flags = points_judge.judge(text.encode(), ranks, rule)
        assert [name for name, flag in flags.items() if flag] == ["correct"]
    state, verdict = play(task, jax.tree.map(lambda x: x[0], states), texts[0])
    assert bool(verdict.correct & state.terminated)
    assert float(verdict.reward) in (5.0, 0.0)  # 0: the released code refuses some
    assert set_flags(verdict) == set()


def test_a_terse_demonstration_is_correct_and_reads_nothing():
    task = make(terse=True)
    states = tiny_points.resets(task, KEYS)
    answers, lengths = tiny_points.demonstrate(task, KEYS, states)
    whole, _ = tiny_points.demonstrate(make(), KEYS, states)
    texts = [decoded(*row) for row in zip(answers, lengths, strict=True)]
    _, verdicts = tiny_points.steps(task, states, as_bytes(*texts))
    assert verdicts.correct.all()
    assert (verdicts.reward == PAPER.correct).all()
    for text, ranks, row in zip(texts, states.hand.ranks.tolist(), whole, strict=True):
        assert text.startswith('{"cards": [], "number": [], "formula": "')
        assert text.endswith('=24"}')
        found = points_judge.judge(text.encode(), ranks, AS_TEN)
        assert found["correct"]
        assert found["cards_misread"]
        # The same formula as an expert's who reads aloud, for the same key.
        formula = json.loads(text)["formula"]
        assert json.loads(decoded(row, np.count_nonzero(row)))["formula"] == formula


def test_the_prompt_may_state_another_rule_than_the_judges():
    hand = (3, 2, 13)  # 3*(10-2), and 13-2 makes 33
    fake, honest = make(AS_TEN, stated=IN_ORDER, wordings=1), make(AS_TEN)
    state = start(fake, hand)
    assert said(fake, state) == prompts.fill(tiny_points.templates()[0], IN_ORDER, hand)
    assert "K counts 13" in said(fake, state)
    assert "each count 10" in said(honest, state)
    for text, right in (("3*(10-2)", True), ("3*(13-2)", False)):
        _, verdict = play(fake, state, answer(text, hand))
        assert bool(verdict.correct) == right


def test_every_wording_is_drawn():
    keys = jax.random.split(jax.random.key(0), (4, len(KEYS)))
    drawn = [tiny_points.resets(make(), some).wording for some in keys]
    assert np.unique(drawn).tolist() == [0, 1, 2]


@pytest.mark.parametrize("visual", [False, True])
def test_every_wording_is_asked(visual):
    task = make(visual=visual)
    state = start(task, HAND)
    for wording, template in enumerate(tiny_points.templates(visual)):
        worded = dataclasses.replace(state, wording=jnp.int32(wording))
        assert said(task, worded) == prompts.fill(template, AS_TEN, () if visual else HAND)


def test_a_picture_is_there_exactly_where_cards_are_seen():
    state = start(make(), HAND)
    assert state.placement is None
    assert tiny_points.observe(make(), state).image is None
    task = make(visual=True)
    state = start(task, HAND)
    first = tiny_points.observe(task, state)
    chex.assert_shape(first.image, (24, 60, 3))
    chex.assert_type(first.image, jnp.uint8)
    state, _ = play(task, state, "no")
    later = tiny_points.observe(task, state)
    np.testing.assert_array_equal(later.image, first.image)
    assert "no complete JSON" in decoded(later.tokens, later.length)
    other = tiny_points.observe(task, tiny_points.with_hand(state, (2, 3, 5)))
    suited = tiny_points.observe(task, tiny_points.with_hand(state, HAND, suits=(1, 0, 0)))
    assert len({np.asarray(seen.image).tobytes() for seen in (first, other, suited)}) == 3


def test_every_way_to_move_the_cards_is_alive():
    task = make(visual=True)

    def seen(*, key: int = 0, **amounts: float):
        look = make_look(3, height=24, width=60, card_height=20, **amounts)
        jittered = dataclasses.replace(task, look=look)
        state = tiny_points.with_hand(tiny_points.reset(jittered, jax.random.key(key)), HAND)
        return np.asarray(tiny_points.observe(jittered, state).image).tobytes()

    tidy = seen()
    assert seen(key=1) == tidy
    moves: list[dict[str, Any]] = [{"shift": 0.2}, {"rotation": 0.2}, {"scale": 0.2}]
    for moved in moves:
        assert len({tidy, seen(**moved), seen(key=1, **moved)}) == 3, moved


ANSWERS = {
    "correct": RIGHT,
    "misread": RIGHT.replace('"4"', '"5"'),
    "wrong value": WRONG,
    "stranger": answer("2*3*4*1", HAND),
    "reused": answer("2*3*4-2+2", HAND),
    "unused": answer("3*8", HAND).replace("3*8", "2*3"),
    "illegal": answer("2*3*4)", HAND),
    "malformed": RIGHT.replace("formula", "formulas"),
    "nothing": "",
}
TABLES = {
    "paper": (PAPER, [5, 5, -1, -2, -2, -2, -3, -3, -3]),
    "visual": (PAPER_VISUAL, [5, 3.5, -1, -2, -2, -2, -3, -3, -3]),
    "binary": (BINARY, [1, 1, 0, 0, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize(("table", "expected"), TABLES.values(), ids=TABLES)
def test_rewards_are_those_of_the_table(table, expected):
    task = dataclasses.replace(make(), rewards=table)
    state = start(task, HAND)
    rewards = [float(play(task, state, text)[1].reward) for text in ANSWERS.values()]
    assert rewards == expected
    ended = dataclasses.replace(state, truncated=jnp.bool_(True))
    assert play(task, ended, ANSWERS["misread"])[1].reward == table.over_budget


def test_every_reward_of_a_table_is_alive():
    state = start(make(), HAND)
    texts = {
        "correct": RIGHT,
        "wrong_value": WRONG,
        "wrong_numbers": ANSWERS["unused"],
        "illegal": "",
        "misread": ANSWERS["misread"],
    }
    for name, text in texts.items():
        task = dataclasses.replace(make(), rewards=dataclasses.replace(PAPER, **{name: 7.0}))
        changed, usual = (play(t, state, text)[1].reward for t in (task, make()))
        assert changed == 7 + (usual if name == "misread" else 0)


def test_the_released_codes_rewards():
    task, hand = make(FACES_IN_ORDER, **FOUR_SEEN), (3, 3, 8, 8)
    assert isinstance(task.rewards, Refusals)
    nothing = jnp.full_like(task.rewards.words, -1)
    trusting = dataclasses.replace(task, rewards=dataclasses.replace(task.rewards, words=nothing))
    own, plain = (answer(text, hand) for text in ("8/(3-8/3)=24", "(8/(3-8/3))"))
    for text, refused in ((own, 0), (plain, -1)):
        for judge, reward in ((task, refused), (trusting, 5)):
            _, verdict = play(judge, start(judge, hand), text)
            assert (bool(verdict.correct), float(verdict.reward)) == (True, reward)
    for text, reward in (
        (own.replace('"8"', '"7"'), -1.5),
        (answer("8+8+3+3", hand), -1),
        (answer("8+8+3+4", hand), -4),
        (answer("8+(", hand), -2),
        ("", -3),
    ):
        state, verdict = play(task, start(task, hand), text)
        assert verdict.reward == reward
    ended = dataclasses.replace(state, truncated=jnp.bool_(True))
    assert play(task, ended, own)[1].reward == -1


def released_answer(formula, ranks):
    return answer(formula, ranks, FACES_IN_ORDER)


RELEASED = {  # hand, reward, correct, ends, what is said
    "4*(1+2+3)": ((1, 2, 3, 4), 5, True, True, ""),
    "4*(1+2+3)=24": ((1, 2, 3, 4), 5, True, True, ""),
    "4*(1+2+3)=99": ((1, 2, 3, 4), 5, False, True, ""),
    "4*(1+2+3)=25": ((1, 2, 3, 4), 5, False, True, ""),
    "4*(1+2+3)=": ((1, 2, 3, 4), 5, False, True, ""),
    "4*(1+2+3)=24=24": ((1, 2, 3, 4), 5, False, True, ""),
    "4*(1+2+3)=24.0": ((1, 2, 3, 4), 5, False, True, ""),
    "4*(1+2+3)= {}": ((1, 2, 3, 4), 5, False, True, ""),
    "8/(3-8/3)": ((3, 3, 8, 8), 0, True, False, "wrong_value"),
    "(8/(3-8/3))": ((3, 3, 8, 8), -1, True, False, "wrong_value"),
    "4 * (1+2+3) = 24": ((1, 2, 3, 4), -3, True, False, "illegal_formula"),
    "4\u00d7(1+2+3)": ((1, 2, 3, 4), -3, True, False, "illegal_formula"),
    "4x(1+2+3)": ((1, 2, 3, 4), -3, True, False, "illegal_formula"),
    "4*(1+2+3": ((1, 2, 3, 4), 1, False, False, "illegal_formula"),
    "4+1+2+3": ((1, 2, 3, 4), -1, False, False, "wrong_value"),
}


def test_released_rewards_end_a_hand_as_the_released_code_does():
    task = with_budget(make(FACES_IN_ORDER, refusals=True, wordings=1), 2)
    for formula, (hand, reward, correct, ends, words) in RELEASED.items():
        state, verdict = play(task, start(task, hand), released_answer(formula, hand))
        assert (float(verdict.reward), bool(verdict.correct)) == (reward, correct), formula
        assert (bool(state.terminated), bool(state.truncated)) == (ends, False), formula
        assert said(task, state) == (f"\n{SENTENCES[words]}\n" if words else ""), formula
        again, verdict = play(task, state, released_answer(formula, hand))
        assert float(verdict.reward) == (-1 if ends else reward), formula
        assert bool(again.terminated | again.truncated)


def test_a_right_formula_with_a_wrong_right_side_is_told_so():
    for leak in (False, True):
        task = make(leak=leak)
        state, verdict = play(task, start(task, HAND), answer("2*3*4=25", HAND))
        assert set_flags(verdict) == {"wrong_value"}
        assert said(task, state) == f"\n{SENTENCES['wrong_right_side']}\n"
        state, verdict = play(task, start(task, HAND), answer("2+3+4=25", HAND))
        assert set_flags(verdict) == {"wrong_value"}
        assert SENTENCES["wrong_right_side"] not in said(task, state)


def test_seen_cards_that_are_misread_are_spoken_of_and_named_cards_are_not():
    text = ANSWERS["misread"].replace("2*3*4", "2+3+4")
    for visual, flag in ((True, "cards_misread"), (False, "wrong_value")):
        task = make(visual=visual)
        state, verdict = play(task, start(task, HAND), text)
        assert set_flags(verdict) >= {"wrong_value", "cards_misread"}
        assert said(task, state) == f"\n{SENTENCES[flag]}\n"
        state, verdict = play(task, start(task, HAND), ANSWERS["misread"])
        assert bool(verdict.correct)
        assert said(task, state) == ""


def settings(**changes):
    usual = {
        "vocabulary": tiny_points.vocabulary(),
        "templates": tiny_points.templates(wordings=1),
        "rewards": PAPER,
        "budget": 3,
    }
    return {**usual, **changes}


def test_the_users_own_sentences_are_said():
    task = make_general_points(AS_TEN, **settings(sentences={**SENTENCES, "no_object": "Hm?"}))
    spelled = decoded(task.feedback.tokens[1], task.feedback.lengths[1])
    assert spelled == "\nHm?\n"


def spelled_without(characters):
    kept = "".join(c for c in prompts.CLOSED_CHARACTERS if c not in characters)
    return tk.vocabulary(tiny_points.tokenizer(kept))


@pytest.mark.parametrize(
    ("rule", "changes", "message"),
    [
        (AS_TEN, {"budget": 0}, "budget=0 must be an integer from 1 to 10 turns"),
        (AS_TEN, {"budget": 11}, "budget=11 must be"),
        (AS_TEN, {"budget": 2.0}, r"budget=2\.0 must be"),
        (AS_TEN, {"budget": True}, "budget=True must be"),
        (AS_TEN, {"stated": FACES_IN_ORDER}, "stated rule has 4 cards and the judge's 3"),
        (AS_TEN, {"look": 4}, "pictures show 4 cards and the rule deals 3; make the look with ca"),
        (Rule(face_values(9, 9, 9), target=1024), {}, "target=1024 cannot stand in an answer"),
        (AS_TEN, {"characters": "("}, r"cannot spell '\('"),
        (AS_TEN, {"characters": "7"}, "cannot spell '7'"),
        (AS_TEN, {"templates": []}, "templates is empty"),
        (AS_TEN, {"templates": ["$cards $target"]}, r"lacks \$face_rule"),
        (AS_TEN, {"templates": ["$target $face_rule"]}, r"lacks \$cards"),
        (AS_TEN, {"sentences": {"no_object": "?"}}, "sentences lack malformed_field"),
        (Rule((0,) * 13, cards=3), {}, "no hand of 3 cards reaches target=24"),
        (AS_TEN, {"rewards": "paper"}, "rewards='paper' must be a RewardTable, such as PAPER, PAP"),
        (AS_TEN, {"rewards": None}, r"rewards=None must be .* or find_refusals\(rule\)"),
        (AS_TEN, {"templates": [None]}, "template None must be a string"),
        (AS_TEN, {"vocabulary": tiny_points.tokenizer()}, "vocabulary is a Tokenizer; give a Voc"),
    ],
)
def test_mistakes_are_refused(rule, changes, message):
    changes = dict(changes)
    if "characters" in changes:
        changes["vocabulary"] = spelled_without(changes.pop("characters"))
    if "look" in changes:
        changes["look"] = tiny_points.look(changes["look"])
    with pytest.raises(ValueError, match=message):
        make_general_points(rule, **settings(**changes))


def test_refusals_of_another_rule_are_refused():
    refusals = find_refusals(FACES_IN_ORDER)
    for change in (
        {"values": face_values(10, 10, 10)},
        {"target": 36},
        {"target": 36, "values": face_values(10, 10, 10)},
    ):
        rule = dataclasses.replace(FACES_IN_ORDER, **change)
        with pytest.raises(ValueError, match=r"refusals for target=24 .* give find_refusals\(rule"):
            make_general_points(rule, **settings(rewards=refusals))
    black = dataclasses.replace(FACES_IN_ORDER, suits=BLACK, needs_face_card=True)
    task = make_general_points(black, **settings(rewards=refusals))
    assert task.rewards is refusals


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        ({"shift": float("nan")}, "shift=nan must be a finite number that is not negative"),
        ({"rotation": float("inf")}, "rotation=inf must be a finite number"),
        ({"scale": -0.1}, r"scale=-0\.1 must be a finite number that is not negative"),
        ({"shift": "a"}, "shift='a' must be a finite number"),
        ({"shift": None}, "shift=None must be a finite number"),
        ({"scale": 1.0}, r"scale=1\.0 must be below 1: a card of no size cannot be seen"),
        ({"scale": 2}, "scale=2 must be below 1"),
    ],
)
def test_looks_without_cards_to_see_are_refused(amounts, message):
    with pytest.raises(ValueError, match=message):
        make_look(3, height=24, width=60, card_height=20, **amounts)


def test_no_card_is_named_where_cards_are_seen():
    text = said(make(visual=True), start(make(visual=True), HAND))
    assert not any(f'"{rank}"' in text for rank in RANKS)
