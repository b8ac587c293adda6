"""Rows from examples."""

import itertools

import numpy as np
import pytest
from experiments.finetuning.data import (
    Encoded,
    batches,
    bucket,
    encode,
    pad,
)

from rlrazor.tasks.questions.lines import Example


def encoded(n):
    return Encoded(np.arange(1, n + 1, dtype=np.int32), np.arange(n) > 0, "")


def test_rows_are_padded_behind_their_tokens():
    rows = pad([encoded(2), encoded(3)], 4)
    np.testing.assert_array_equal(rows.tokens, [[1, 2, 0, 0], [1, 2, 3, 0]])
    np.testing.assert_array_equal(rows.count, [2, 3])
    np.testing.assert_array_equal(rows.mask, [[0, 1, 0, 0], [0, 1, 1, 0]])


def test_what_is_too_long_is_left_out_and_counted():
    sizes = iter([3, 9, 4])
    kept, left_out = encode([Example([], "")] * 3, lambda _: encoded(next(sizes)), longest=4)
    assert [len(example.tokens) for example in kept] == [3, 4]
    assert left_out == 1
    with pytest.raises(ValueError, match=r"none of 1 examples has 2 tokens or fewer.* has 5"):
        encode([Example([], "")], lambda _: encoded(5), longest=2)


def test_the_smallest_bucket_holds_the_longest_row():
    assert [bucket(n, (64, 16, 32)) for n in (1, 16, 17, 64)] == [16, 16, 32, 64]


def take(n, *, start=0, count=10, size=3, seed=0):
    return [list(b) for b in itertools.islice(batches(count, size, seed=seed, start=start), n)]


def test_an_epoch_shows_every_example_at_most_once_in_a_new_order():
    first, second = take(6)[:3], take(6)[3:]
    for epoch in (first, second):
        assert len(set(itertools.chain(*epoch))) == 9
    assert first != second
    assert take(3, seed=1) != first


def test_batches_follow_from_their_number():
    assert take(7)[4:] == take(3, start=4)


def test_fewer_examples_than_a_batch_are_repeated():
    for batch in take(3, count=2, size=5):
        assert set(batch) == {0, 1}
        assert len(batch) == 5
