import functools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from rlrazor.runtime import tokenizer as tk
from tests.oracles import tiny_tokenizers

PHRASES = ["hello", "hello world", "hello wor", "llo", '{"a": [', "10", ", ", "ol"]
CHARACTERS = "helo wrd0123,\n{}[]\":aé€'"
TEXT = 'A 8  A (8) [9]{"A": 日本 é}\n\t\0'


@functools.cache
def closed():
    return tk.build_closed_tokenizer(PHRASES, CHARACTERS)


def bytes_of(tokenizer, ids):
    table, lengths = tk.token_bytes(tokenizer)
    assert (table.dtype, lengths.dtype) == (np.uint8, np.int32)
    return b"".join(table[i, : lengths[i]].tobytes() for i in ids)


def leftmost_longest(text):
    units = sorted({*PHRASES, *CHARACTERS}, key=len, reverse=True)
    return re.findall("|".join(map(re.escape, units)), text)


@given(st.lists(st.sampled_from([*PHRASES, *CHARACTERS])).map("".join))
def test_closed_vocabulary_round_trip(text):
    ids = tk.encode_exactly(closed(), text)
    assert [closed().decode([i]) for i in ids] == leftmost_longest(text)
    assert closed().decode(ids) == text
    assert bytes_of(closed(), ids) == text.encode()


def test_closed_vocabulary_order_and_specials():
    tokenizer = closed()
    assert [tokenizer.id_to_token(i) for i in range(5)] == [*tk.SPECIALS, *PHRASES[:2]]
    assert tokenizer.get_vocab_size() == 3 + len(PHRASES) + len(CHARACTERS)
    assert bytes_of(tokenizer, [1, 3, 0, 2]) == b"hello"
    twice = tk.build_closed_tokenizer(["10", "10", "a"], "aab")
    assert twice.get_vocab_size() == 3 + 3


@pytest.mark.parametrize(
    ("text", "lost"),
    [("hello z", "'z', character 6"), ("日", "'日', character 0"), ("a<eos>", "'<', character 1")],
)
def test_text_outside_the_alphabet_is_an_error(text, lost):
    with pytest.raises(ValueError, match=re.escape(f"cannot spell {lost}")):
        tk.encode_exactly(closed(), text)
    with pytest.raises(ValueError, match="cannot spell"):
        tk.encode_batch_exactly(closed(), ["hello", text])


def test_odd_phrases_are_errors():
    with pytest.raises(ValueError, match="empty"):
        tk.build_closed_tokenizer(["a", ""], "a")
    with pytest.raises(ValueError, match="'<eos>'"):
        tk.build_closed_tokenizer(["<eos>"], "a")


def test_batches_are_encoded_like_single_texts():
    texts = ["hello world", "", "a\na"]
    assert tk.encode_batch_exactly(closed(), texts) == [
        tk.encode_exactly(closed(), t) for t in texts
    ]


@functools.cache
def family(name):
    return getattr(tiny_tokenizers, name)()


# Lone surrogates are no text; U+2581 and "<" are the families' own signs.
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<")))
def test_bytes_are_those_of_the_text(text):
    for tokenizer in (family("byte_level"), family("byte_fallback")):
        assert bytes_of(tokenizer, tk.encode_exactly(tokenizer, text)) == text.encode()


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
def test_merges_and_odd_characters_are_met(name):
    ids = tk.encode_exactly(family(name), TEXT)
    assert len(ids) < len(TEXT.encode())  # something was merged
    assert bytes_of(family(name), ids) == TEXT.encode()


def test_every_id_of_a_byte_level_vocabulary_is_what_it_decodes_to():
    tokenizer = family("byte_level")
    table, lengths = tk.token_bytes(tokenizer)
    assert len(table) == tokenizer.get_vocab_size() == 332
    for i in range(len(table)):
        spelled = table[i, : lengths[i]].tobytes()
        assert spelled.decode(errors="replace") == tokenizer.decode([i])
        assert not table[i, lengths[i] :].any()
    singles = sorted(table[lengths == 1, 0])
    assert singles == list(range(256))


def test_special_tokens_spell_nothing_and_other_added_ones_their_text():
    tokenizer = family("byte_level")
    ids = tokenizer.encode("a<|end|>b<|tool|>").ids
    assert len(ids) == 4
    assert bytes_of(tokenizer, ids) == b"ab<|tool|>"


def test_the_first_blank_stays():
    for tokenizer in (tiny_tokenizers.byte_fallback(prepend=True), tiny_tokenizers.metaspace()):
        ids = tk.encode_exactly(tokenizer, "A (8) A")
        assert bytes_of(tokenizer, ids) == b" A (8) A"


def test_words_are_joined_by_blanks_and_missing_ids_spell_nothing():
    tokenizer = tiny_tokenizers.words({"1": 0, "+": 1, "23": 5})
    assert bytes_of(tokenizer, tk.encode_exactly(tokenizer, "1 + 23")) == b" 1 + 23"
    _, lengths = tk.token_bytes(tokenizer, size=8)
    np.testing.assert_array_equal(lengths, [2, 2, 0, 0, 0, 3, 0, 0])
    with pytest.raises(ValueError, match="size=5 is less than the 6 ids"):
        tk.token_bytes(tokenizer, size=5)
    with pytest.raises(ValueError, match="cannot spell"):
        tk.encode_exactly(tokenizer, "1 - 23")


def test_decoders_that_look_at_neighbours_are_errors():
    for decoder, name in (
        (decoders.WordPiece(), "WordPiece"),
        (decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.Fuse()]), "Strip"),
    ):
        tokenizer = tiny_tokenizers.words({"1": 0})
        tokenizer.decoder = decoder
        with pytest.raises(ValueError, match=f"decodes by {name}"):
            tk.token_bytes(tokenizer)


def test_encode_inside_adds_no_blank():
    tokenizer = tiny_tokenizers.byte_fallback(prepend=True)
    assert bytes_of(tokenizer, tk.encode_exactly(tokenizer, "(8")) == b" (8"
    assert bytes_of(tokenizer, tk.encode_inside(tokenizer, "(8")) == b"(8"
    assert tk.encode_inside(family("byte_level"), "8/") == tk.encode_exactly(
        family("byte_level"), "8/"
    )
    merging = tk.build_closed_tokenizer(["\n8"], "\n8")
    with pytest.raises(ValueError, match="merges the end of a line with '8'"):
        tk.encode_inside(merging, "8")


def test_load_gives_back_what_was_saved(tmp_path):
    tokenizer = tk.build_closed_tokenizer(PHRASES, CHARACTERS)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = tk.load_tokenizer(path)
        text = "hello world\n10"
        assert tk.encode_exactly(loaded, text) == tk.encode_exactly(closed(), text)
        np.testing.assert_array_equal(tk.token_bytes(loaded)[0], tk.token_bytes(closed())[0])


def test_load_errors_name_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*tokenizer\.json"):
        tk.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json that can"):
        tk.load_tokenizer(tmp_path)
