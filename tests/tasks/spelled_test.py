import jax.numpy as jnp
import pytest

from rlrazor.tasks import spelled


def shout(text):
    return [ord(c) for c in text]


def heard(ids):
    return "".join(map(chr, ids))


def test_tables_hold_what_each_piece_spells():
    table, lengths = spelled.in_bytes(["", "a", "é("])
    assert table.dtype == jnp.uint8
    assert table.tolist() == [[0, 0, 0], [97, 0, 0], [195, 169, 40]]
    assert lengths.tolist() == [0, 1, 3]
    table, lengths = spelled.in_tokens(["", "ab"], shout, heard)
    assert table.dtype == jnp.int32
    assert table.tolist() == [[0, 0], [97, 98]]


def test_a_piece_that_changes_among_others_is_an_error():
    def drops_blanks(ids):
        return heard(ids).replace(" ", "")

    with pytest.raises(ValueError, match="cannot spell ', ': twice after '=' it decodes to '=,,'"):
        spelled.in_tokens(["a", ", "], shout, drops_blanks)


def test_a_piece_that_cannot_be_encoded_is_named():
    def refuses(text):
        if "7" in text:
            raise ValueError("no 7")
        return shout(text)

    with pytest.raises(ValueError, match="cannot spell '17': no 7"):
        spelled.in_tokens(["1", "17"], refuses, heard)
