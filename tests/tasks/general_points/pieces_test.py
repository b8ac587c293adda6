import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.ops.spelling import spell
from rlrazor.runtime import tokenizer as tk
from rlrazor.tasks.general_points import pieces
from rlrazor.tasks.general_points.pieces import PIECES
from rlrazor.tasks.general_points.rule import LARGEST_VALUE, RANKS, Rule, face_values
from tests.oracles import tiny_tokenizers

ANSWER = '{"cards": ["A", "8", "3", "K"], "number": [1, 8, 3, 13], "formula": "8/(3-8/3)=24"}'
EIGHT, THREE = pieces.FIRST_NUMBER + 8, pieces.FIRST_NUMBER + 3
FORMULA = [EIGHT, 4, 5, 0, THREE, 2, EIGHT, 4, THREE, 6, 0, 0]  # 8/(3-8/3)


def answer(ranks=(1, 8, 3, 13), numbers=(1, 8, 3, 13), formula=FORMULA, target=24):
    arrays = (np.array(x, np.int32) for x in (ranks, numbers, formula, target))
    return np.asarray(jax.jit(pieces.expert_answer)(*arrays))


def text_of(symbols):
    return "".join(PIECES[int(s)] for s in symbols)


def test_the_numbers_of_the_pieces():
    assert PIECES[:9] == ("", "+", "-", "*", "/", "(", ")", "=", '"A"')
    assert PIECES[20:32] == (
        '"K"', '{"cards": [', '], "number": [', '], "formula": "', '"}', ", ", *[""] * 6
    )  # fmt: skip
    assert PIECES[pieces.FIRST_NUMBER :] == tuple(map(str, range(1024)))
    assert (pieces.OPEN, pieces.CLOSE, pieces.EQUALS, pieces.COMMA) == (5, 6, 7, 25)
    named = [f'"{r}"' for r in RANKS]
    assert list(PIECES[pieces.FIRST_RANK : pieces.FIRST_RANK + 13]) == named


def test_expert_answer_is_the_json_text():
    symbols = answer()
    assert symbols.shape == (4 * 4 + len(FORMULA) + 4,)
    assert symbols.dtype == jnp.int32
    assert text_of(symbols) == ANSWER
    five = answer((10, 11, 12, 13, 1), (10, 1023, 0, 7, 1), [pieces.FIRST_NUMBER], 0)
    assert json.loads(text_of(five)) == {
        "cards": ["10", "J", "Q", "K", "A"],
        "number": [10, 1023, 0, 7, 1],
        "formula": "0=0",
    }


@pytest.mark.parametrize("cards", [3, 4, 5])
def test_without_reading_leaves_the_formula_and_two_empty_lists(cards):
    ranks = (1, 8, 3, 13, 10)[:cards]
    symbols = answer(ranks, ranks)
    terse = np.asarray(jax.jit(pieces.without_reading, static_argnums=1)(symbols, cards))
    assert terse.shape == symbols.shape
    assert text_of(terse) == '{"cards": [], "number": [], "formula": "8/(3-8/3)=24"}'
    blank = np.flatnonzero(terse != symbols)
    np.testing.assert_array_equal(terse[blank], pieces.PADDING)
    assert len(blank) == 2 * (2 * cards - 1)  # every card, every number, every comma


def test_expert_answer_vmapped_equals_solo_and_traces_once():
    rng = np.random.default_rng(0)
    ranks, numbers = rng.integers(1, 14, (2, 5, 4), np.int32)
    formula, target = rng.integers(0, 60, (5, 7), np.int32), rng.integers(0, 99, 5, np.int32)
    batch = [ranks, numbers, formula, target]
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(pieces.expert_answer, n=1))
    solo = np.stack([traced(*example) for example in zip(*batch, strict=True)])
    np.testing.assert_array_equal(jax.jit(jax.vmap(pieces.expert_answer))(*batch), solo)


def test_byte_table_spells_every_piece_and_the_answer():
    table, lengths = pieces.byte_table()
    assert (table.dtype, lengths.dtype) == (jnp.uint8, jnp.int32)
    rows = zip(np.asarray(table), np.asarray(lengths), strict=True)
    assert tuple(row[:n].tobytes().decode() for row, n in rows) == PIECES
    spelled, length = jax.jit(spell, static_argnums=3)(answer(), table, lengths, 120)
    assert np.asarray(spelled).tobytes().rstrip(b"\0").decode() == ANSWER
    assert length == len(ANSWER)


@pytest.mark.parametrize("prepend", [None, False, True])
def test_token_table_spells_the_answer(prepend):
    tokenizer = (
        tiny_tokenizers.byte_level()
        if prepend is None
        else tiny_tokenizers.byte_fallback(prepend=prepend)
    )
    table, lengths = pieces.piece_table(
        lambda text: tk.encode_inside(tokenizer, text),
        lambda ids: tokenizer.decode(ids),
    )
    assert table.dtype == jnp.int32
    ids, length = jax.jit(spell, static_argnums=3)(answer(), table, lengths, 120)
    assert tokenizer.decode(np.asarray(ids)[: int(length)].tolist()) == ANSWER


@pytest.mark.parametrize("missing", ["7", ")", '"', "*"])
def test_a_tokenizer_that_cannot_spell_a_piece_is_an_error(missing):
    alphabet = [chr(c) for c in range(0x20, 0x7F) if chr(c) != missing]
    tokenizer = tk.build_closed_tokenizer([], "".join(alphabet))
    first = next(piece for piece in PIECES if missing in piece)
    for encode in (
        lambda text: tk.encode_exactly(tokenizer, text),
        lambda text: tokenizer.encode(text).ids,  # drops it without a word
    ):
        with pytest.raises(ValueError, match="cannot spell") as error:
            pieces.piece_table(encode, tokenizer.decode)
        assert f"cannot spell {first!r}" in str(error.value)


def test_a_blank_before_every_piece_is_an_error():
    tokenizer = tiny_tokenizers.byte_fallback(prepend=True)
    with pytest.raises(ValueError, match=r"cannot spell '\+': twice after '='.* adds no blank"):
        pieces.piece_table(lambda text: tokenizer.encode(text).ids, tokenizer.decode)


def test_every_value_has_a_piece_and_every_target_is_checked():
    assert LARGEST_VALUE <= pieces.LARGEST_NUMBER
    for target in (24, 1023):
        pieces.check_target(Rule(values=face_values(1, 2, 3), target=target))
    with pytest.raises(ValueError, match=r"target=1024 cannot .* up to 1023"):
        pieces.check_target(Rule(values=face_values(1, 2, 3), target=1024))
