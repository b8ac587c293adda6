"""How questions and answers are written, and in which tokenizers."""

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

from rlrazor.runtime import tokenizer as tk
from rlrazor.tasks.general_points import prompts
from rlrazor.tasks.procedural import pieces
from rlrazor.tasks.procedural.pieces import PIECES, TASKS, procedural_phrases
from rlrazor.tasks.procedural.task import make_procedural
from tests.oracles import tiny_tokenizers
from tests.oracles.tiny_procedural import TOKENIZER, UNIFORM, draw, make, sides, texts

CHARACTERS = prompts.CLOSED_CHARACTERS


def spelled(symbols):
    return "".join(PIECES[int(s)] for s in symbols)


def test_the_numbers_of_the_pieces():
    assert PIECES[pieces.PADDING] == ""
    assert PIECES[pieces.FIRST_DIGIT :][:10] == tuple("0123456789")
    assert PIECES[pieces.FIRST_LETTER :][:10] == tuple("abcdefghij")
    assert (PIECES[pieces.BLANK], PIECES[pieces.IN], PIECES[pieces.END]) == (" ", " in ", " =")
    assert PIECES[pieces.FIRST_WORD :] == tuple(f"{task} " for task in TASKS)
    assert len(set(PIECES)) == len(PIECES)


def test_numbers_and_lists_are_written_as_python_writes_them():
    written = jax.jit(jax.vmap(lambda n: pieces.number(n, 4)))(np.arange(10_000))
    assert [spelled(row) for row in np.asarray(written)] == [str(n) for n in range(10_000)]
    items = np.arange(pieces.FIRST_DIGIT, pieces.FIRST_DIGIT + 4)
    for length in range(5):
        row = jax.jit(pieces.listed)(items, np.int32(length))
        assert spelled(np.asarray(row)) == " ".join("0123"[:length])


def test_byte_table_spells_every_piece():
    rows = zip(*map(np.asarray, pieces.byte_table()), strict=True)
    assert tuple(row[:n].tobytes().decode() for row, n in rows) == PIECES


def test_tokens_are_those_of_the_text_in_a_vocabulary_of_the_phrases():
    task = make()
    states, pairs = draw(task)
    observation, (answers, lengths), _ = jax.device_get(sides(task, states))
    for i in range(256):
        question, answer = pairs[i]
        tokens = observation.tokens[i][: observation.length[i]].tolist()
        assert tokens == tk.encode_exactly(TOKENIZER, question)
        assert answers[i][: lengths[i]].tolist() == tk.encode_exactly(TOKENIZER, answer)
    assert not (observation.tokens * (np.arange(15)[None] >= observation.length[:, None])).any()
    assert (observation.length.max(), lengths.max()) == (15, 11)  # nothing is cut, nothing idle
    assert observation.tokens.shape[1] == task.question_size == 15
    assert answers.shape[1] == task.demonstration_size == 11


def both_tasks() -> Tokenizer:
    templates = [prompts.load_template("text_frozen", visual=False)]
    phrases = [*prompts.closed_phrases(templates), *procedural_phrases()]
    return tk.build_closed_tokenizer(phrases, CHARACTERS)


MAKERS = {
    "shared with GeneralPoints": both_tasks,
    "byte level": tiny_tokenizers.byte_level,
    "byte fallback": tiny_tokenizers.byte_fallback,
    "a blank before": lambda: tiny_tokenizers.byte_fallback(prepend=True),
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_every_tokenizer_spells_the_same_texts(maker):
    vocabulary = tk.vocabulary(maker())
    task = make_procedural(vocabulary, weights=UNIFORM, part="all")
    states, pairs = draw(make())
    before = vocabulary.encode_inside("=")

    def decode(ids):
        return vocabulary.decode([*before, *ids])[1:]

    assert texts(task, states, decode=decode) == pairs


def test_a_vocabulary_shared_with_general_points_has_a_symbol_a_piece():
    task = make_procedural(tk.vocabulary(both_tasks()), weights=UNIFORM, part="all")
    assert (task.question_size, task.demonstration_size) == (15, 11)
    assert task.piece_tokens.shape == (len(PIECES), 1)


@pytest.mark.parametrize("missing", ["7", "j", " ", "="])
def test_a_vocabulary_that_lacks_a_character_is_refused(missing):
    letters = "".join(c for c in CHARACTERS if c != missing)
    tokenizer = tk.build_closed_tokenizer([], letters)
    with pytest.raises(ValueError, match="cannot spell"):
        make_procedural(tk.vocabulary(tokenizer), weights=UNIFORM, part="all")


def test_a_vocabulary_that_joins_words_by_blanks_is_refused():
    tokenizer = tiny_tokenizers.words({"=": 0, "\n": 1, **{c: i + 2 for i, c in enumerate("01")}})
    with pytest.raises(ValueError, match="cannot spell"):
        make_procedural(tk.vocabulary(tokenizer), weights=UNIFORM, part="all")
