import dataclasses
import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.ops.spelling import spell
from rlrazor.runtime import tokenizer as tk
from rlrazor.tasks.general_points import feedback, pieces, prompts
from rlrazor.tasks.general_points.prompt_table import hand_row
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER, Rule, face_values
from tests.oracles import tiny_tokenizers

TEXTS = prompts.FROZEN_TEXT + prompts.DIVERSE_TEXT
IMAGES = prompts.FROZEN_IMAGE + prompts.DIVERSE_IMAGE
THREE_CARDS = Rule(values=(11, *range(2, 11), 11, 12, 13), cards=3)


def load(names, *, visual=False):
    return [prompts.load_template(name, visual=visual) for name in names]


@functools.cache
def tokenizer(family):
    if family == "byte_level":
        return tiny_tokenizers.byte_level()
    templates = load(TEXTS) + load(IMAGES, visual=True)
    phrases = prompts.closed_phrases(templates, list(feedback.SENTENCES.values()))
    return tk.build_closed_tokenizer(phrases, prompts.CLOSED_CHARACTERS)


@functools.cache
def table_of(family, rule, names, visual=False):
    encode = functools.partial(tk.encode_batch_exactly, tokenizer(family))
    return prompts.prompt_table(load(names, visual=visual), rule, encode, visual=visual)


@pytest.mark.parametrize(
    ("family", "rule", "names"),
    [
        ("closed", FACES_IN_ORDER, TEXTS[:1]),
        ("closed", THREE_CARDS, TEXTS),
        ("byte_level", THREE_CARDS, TEXTS[:3]),
    ],
)
def test_rows_are_the_tokens_of_the_whole_text(family, rule, names):
    table = table_of(family, rule, names)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def look_up(table, wording, ranks):
        return table.tokens(wording, hand_row(ranks))

    rng = np.random.default_rng(0)
    hands = rng.integers(1, 14, (40, rule.cards), np.int32)
    hands[:2] = [[1], [13]]  # the first row and the last
    wordings = np.arange(len(hands), dtype=np.int32) % len(names)
    lengths = []
    for wording, ranks in zip(wordings, hands, strict=True):
        text = prompts.fill(load(names)[wording], rule, ranks)
        expected = tk.encode_exactly(tokenizer(family), text)
        tokens, length = look_up(table, wording, ranks)
        assert tokens.dtype == jnp.int32
        assert tokens.shape == (table.size,)
        tokens = np.asarray(tokens)
        assert tokens[:length].tolist() == expected
        assert not tokens[length:].any()
        assert tokenizer(family).decode(tokens[:length].tolist()) == text
        lengths.append(int(length))
    vmapped = jax.jit(jax.vmap(lambda w, r: table.tokens(w, hand_row(r))))(wordings, hands)
    np.testing.assert_array_equal(vmapped[1], lengths)


def test_rows_stand_in_the_order_of_hand_row():
    hands = np.array(list(itertools.product(range(1, 14), repeat=3)), np.int32)
    np.testing.assert_array_equal(jax.jit(jax.vmap(hand_row))(hands), np.arange(13**3))
    table = table_of("closed", THREE_CARDS, TEXTS)
    assert table.middle.shape[1] == 13**3
    assert table.middle.dtype == jnp.uint16


def test_batches_of_rows_change_nothing(monkeypatch):
    whole = table_of("byte_level", THREE_CARDS, TEXTS[:3])
    monkeypatch.setattr(prompts, "BATCH", 169)  # all hands of a batch share their first card
    again = table_of.__wrapped__("byte_level", THREE_CARDS, TEXTS[:3])
    chex.assert_trees_all_equal(again, whole)


def test_what_all_rows_share_is_stored_once():
    table = table_of("closed", FACES_IN_ORDER, TEXTS[:1])
    assert table.middle.shape == (1, 13**4, 7)  # four cards, three commas
    np.testing.assert_array_equal(table.middle_length, np.full((1, 13**4), 7))


def test_pictures_have_one_row_and_show_no_cards():
    table = table_of("closed", FACES_AS_TEN, IMAGES, visual=True)
    assert table.middle.shape[1] == 1
    look_up = jax.jit(table.tokens)
    for wording, template in enumerate(load(IMAGES, visual=True)):
        tokens, length = look_up(wording, 0)
        text = tokenizer("closed").decode(np.asarray(tokens)[:length].tolist())
        assert text == prompts.fill(template, FACES_AS_TEN)
        assert "J, Q and K each count 10" in text
        assert "24" in text
        assert 'cards: ["' not in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (face_values(10, 10, 10), "J, Q and K each count 10"),
        (face_values(11, 12, 13), "J counts 11, Q counts 12 and K counts 13"),
        ((11, *face_values(5, 5, 7)[1:]), "A counts 11, J counts 5, Q counts 5 and K counts 7"),
        ((14, *face_values(5, 5, 5)[1:]), "A counts 14; J, Q and K each count 5"),
        ((2, 1, *face_values(5, 5, 5)[2:]), "A counts 2 and 2 counts 1; J, Q and K each count 5"),
    ],
)
def test_face_rule_in_words(values, words):
    assert prompts.face_rule(values) == words


def test_the_stated_rule_is_alive():
    other = Rule(values=THREE_CARDS.values, cards=3, target=36)
    for rule in (other, Rule(values=face_values(7, 7, 7), cards=3)):
        assert prompts.fill(load(TEXTS)[0], rule, (1, 2, 3)) != prompts.fill(
            load(TEXTS)[0], THREE_CARDS, (1, 2, 3)
        )


@pytest.mark.parametrize("name", TEXTS + IMAGES + prompts.TERSE_TEXT)
def test_our_templates_ask_for_the_three_fields(name):
    text = prompts.load_template(name, visual=name in IMAGES)
    assert all(f'"{field}"' in text for field in ("cards", "number", "formula"))
    assert text.endswith("\n")
    assert text.isascii()


def test_wordings_differ():
    assert len(set(load(TEXTS + prompts.TERSE_TEXT) + load(IMAGES, visual=True))) == 15


def test_the_terse_wording_asks_for_empty_lists():
    (template,) = load(prompts.TERSE_TEXT)
    text = prompts.fill(template, FACES_IN_ORDER, (1, 8, 3, 13))
    assert text.startswith('Cards: ["A", "8", "3", "K"].')
    assert '{"cards": [], "number": [], "formula": "...=24"}' in text
    assert "J counts 11, Q counts 12 and K counts 13" in text
    for other in load(TEXTS):
        assert '"cards": []' not in other


def test_a_closed_turn_is_short_and_its_answer_is_made_of_pieces():
    closed = tokenizer("closed")
    prompt = tk.encode_exactly(closed, prompts.fill(load(TEXTS)[0], FACES_IN_ORDER, (1, 8, 3, 13)))
    eight, three = pieces.FIRST_NUMBER + 8, pieces.FIRST_NUMBER + 3
    formula = [eight, 3, 5, 5, three, 1, eight, 6, 4, three, 6]  # as long as four cards can make it
    arrays = (np.array(x, np.int32) for x in ([1, 8, 3, 13], [1, 8, 3, 13], formula, 24))
    symbols = jax.jit(pieces.expert_answer)(*arrays)
    table, lengths = pieces.piece_table(functools.partial(tk.encode_exactly, closed), closed.decode)
    answer, length = jax.jit(spell, static_argnums=3)(symbols, table, lengths, 64)
    text = "".join(pieces.PIECES[s] for s in symbols.tolist())
    assert np.asarray(answer)[:length].tolist() == tk.encode_exactly(closed, text)
    assert len(prompt) + int(length) <= 60
    for sentence in feedback.SENTENCES.values():
        assert len(tk.encode_exactly(closed, feedback.as_turn(sentence))) == 1


def test_closed_numbers_reach_as_far_as_wanted():
    for largest in (0, 1023):
        phrases = prompts.closed_phrases(load(TEXTS), largest_number=largest)
        assert sum(phrase.isdecimal() for phrase in phrases) == 1 + largest
    with pytest.raises(ValueError, match="largest_number=1024 must be 0 to 1023"):
        prompts.closed_phrases(load(TEXTS), largest_number=1024)


GOOD = "Cards $cards, reach ${target}, $face_rule. Costs $$5."


@pytest.mark.parametrize(
    ("text", "visual", "message"),
    [
        ("$cards $target", False, r"lacks \$face_rule"),
        ("$target $face_rule", False, r"lacks \$cards"),
        ("nothing", True, r"lacks \$target, \$face_rule"),
        (GOOD + " $suit", False, r"unknown field \$suit; .* text may use \$cards, \$target"),
        (GOOD, True, r"unknown field \$cards; .* pictures may use \$target"),
        (GOOD + " 5$", False, r"stray '\$'"),
        (GOOD + "\0", False, "NUL"),
    ],
)
def test_bad_templates_are_errors(tmp_path, text, visual, message):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        prompts.load_template(tmp_path / "mine.txt", visual=visual)
    with pytest.raises(ValueError, match=message):
        prompts.prompt_table([text], FACES_AS_TEN, lambda texts: [[1]], visual=visual)


def test_a_template_of_the_users_own(tmp_path):
    (tmp_path / "mine.txt").write_text(GOOD)
    text = prompts.load_template(tmp_path / "mine.txt", visual=False)
    assert prompts.fill(text, FACES_AS_TEN, (1, 13)) == (
        'Cards "A", "K", reach 24, J, Q and K each count 10. Costs $5.'
    )
    phrases = prompts.closed_phrases([text])
    assert {"Cards ", ", reach ", ". Costs $5."} < set(phrases)
    with pytest.raises(ValueError, match=r"cannot be read .* text_frozen"):
        prompts.load_template(tmp_path / "none.txt", visual=False)
    with pytest.raises(ValueError, match="templates is empty"):
        prompts.prompt_table([], FACES_AS_TEN, lambda texts: [], visual=False)


def test_a_tokenizer_that_cannot_spell_a_prompt_is_an_error():
    for missing in "[3":
        alphabet = prompts.CLOSED_CHARACTERS.replace(missing, "")
        encode = functools.partial(tk.encode_batch_exactly, tk.build_closed_tokenizer([], alphabet))
        with pytest.raises(ValueError, match=re.escape(f"cannot spell {missing!r}")):
            prompts.prompt_table(load(TEXTS[:1]), THREE_CARDS, encode, visual=False)


def test_tasks_that_say_the_same_share_what_was_encoded():
    """A judge, rewards and a budget are none of a prompt's business; its words and rule are."""
    calls = []

    def counting(texts):
        calls.append(texts[0])
        return [[len(text)] for text in texts]

    two = dataclasses.replace(THREE_CARDS, needs_face_card=True)
    for rule in (THREE_CARDS, two, dataclasses.replace(THREE_CARDS, target=23)):
        prompts.prompt_table(load(TEXTS[:1]), rule, counting, visual=False)
    assert len(calls) == 2
