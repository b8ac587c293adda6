"""Decoding with a bigram as the model: its cache is each row's last token and a count of tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlrazor.sampling.decode import Sampling, decode, make_stops
from rlrazor.sampling.distribution import sampled_logprobs

V = 5
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(V, V)) * 1.5, jnp.float32)
NEVER = make_stops([[V]])


def append(cache, tokens, count):
    last, total = cache
    newest = jnp.take_along_axis(tokens, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    last = jnp.where(count > 0, newest, last)
    return TABLE[last], (last, total + count)


@functools.partial(jax.jit, static_argnames="size")
def drawn(first, keys, active, sampling, stops, size):
    cache = (first, jnp.ones(len(first), jnp.int32))
    return decode(append, cache, TABLE[first], keys, active, sampling, stops, size=size)


def run(first, keys, sampling=None, stops=NEVER, size=6, active=None):
    active = jnp.ones(len(first), bool) if active is None else jnp.asarray(active)
    return drawn(jnp.asarray(first, jnp.int32), keys, active, sampling or Sampling(), stops, size)


def keys_of(seed, count):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.5), Sampling(2.0), Sampling(1.0, 2), Sampling(1.0, 0, 0.6)]
)
def test_tokens_are_as_frequent_as_the_distribution_says(sampling):
    B = 20_000
    decoded = run(jnp.zeros(B), keys_of(1, B), sampling, size=2)
    law = jax.vmap(
        lambda logits: sampled_logprobs(
            logits,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )
    )(TABLE)
    law = np.exp(np.asarray(law, np.float64))
    expected = law[0][:, None] * law  # of pairs of tokens
    expected /= expected.sum()
    pairs = np.zeros((V, V))
    np.add.at(pairs, tuple(np.asarray(decoded.tokens).T), 1)
    possible = expected > 0
    assert pairs[~possible].sum() == 0
    assert stats.chisquare(pairs[possible], expected[possible] * B).pvalue > 1e-3


def test_behaviour_logprobs_are_those_of_the_distribution_really_sampled():
    sampling = Sampling(0.7, 3, 0.9)
    decoded = run([0, 1, 2, 3], keys_of(2, 4), sampling)
    for row, first in enumerate(range(4)):
        last = first
        for token, logprob in zip(
            decoded.tokens[row], decoded.behaviour_logprobs[row], strict=True
        ):
            law = sampled_logprobs(TABLE[last], temperature=0.7, top_k=3, top_p=0.9)
            assert logprob == law[token]
            last = token


def test_a_row_depends_on_neither_neighbours_nor_its_place():
    keys = keys_of(3, 6)
    together = run([0, 1, 2, 3, 4, 0], keys)
    alone = run([2], keys[2:3])
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[2])
    order = jnp.array([5, 3, 1, 0, 2, 4])
    shuffled = run(jnp.array([0, 1, 2, 3, 4, 0])[order], keys[order])
    np.testing.assert_array_equal(shuffled.tokens, together.tokens[order])
    longer = run([0, 1, 2, 3, 4, 0], keys, size=9)
    np.testing.assert_array_equal(longer.tokens[:, :6], together.tokens)


def test_other_keys_draw_other_answers_and_the_same_keys_the_same():
    first, again, other = (run(jnp.zeros(64), keys_of(seed, 64)).tokens for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    repeated = jnp.mean(jnp.all(first == other, axis=1))
    assert repeated < 0.1


def test_stop_sequences_end_a_row_and_are_part_of_it():
    stops = make_stops([[3], [1, 2]])
    decoded = run(jnp.zeros(512), keys_of(6, 512), stops=stops, size=40)
    for tokens, length, stopped in zip(
        np.asarray(decoded.tokens), decoded.length, decoded.stopped, strict=True
    ):
        text = tokens[:length].tolist()
        ends = [n for n in range(1, len(text) + 1) if text[n - 1] == 3 or text[n - 2 : n] == [1, 2]]
        assert bool(stopped) == bool(ends)
        assert length == (ends[0] if ends else 40)
        assert not tokens[length:].any()
    assert decoded.stopped.any()


def test_rows_that_do_not_answer_stay_as_they_were():
    decoded = run([0, 1, 2], keys_of(7, 3), active=[True, False, True])
    last, total = decoded.cache
    assert decoded.length.tolist() == [6, 0, 6]
    assert total.tolist() == [7, 1, 7]
    assert last[1] == 1
    np.testing.assert_array_equal(decoded.logits, TABLE[last])
    assert not decoded.tokens[1].any()
    assert not decoded.behaviour_logprobs[1].any()


def test_the_loop_ends_when_all_have_stopped():
    calls = []

    def counted(cache, tokens, count):
        jax.debug.callback(lambda: calls.append(1))
        return append(cache, tokens, count)

    logits = jnp.full((2, V), -jnp.inf).at[:, 3].set(0.0)
    cache = (jnp.zeros(2, jnp.int32), jnp.ones(2, jnp.int32))
    decoded = decode(
        counted, cache, logits, keys_of(8, 2), jnp.ones(2, bool), Sampling(), make_stops([[3]]),
        size=50,
    )  # fmt: skip
    jax.effects_barrier()
    assert len(calls) == 1
    assert decoded.length.tolist() == [1, 1]


def test_greedy_is_a_function_of_the_model():
    decoded = run([0, 0], keys_of(9, 2), Sampling(0.0))
    expected, last = [], 0
    for _ in range(6):
        last = int(jnp.argmax(TABLE[last]))
        expected.append(last)
    assert decoded.tokens.tolist() == [expected, expected]
    assert not decoded.behaviour_logprobs.any()


def test_how_tokens_are_drawn_is_data_and_every_part_of_it_matters():
    def tokens(*sampling):
        return run(jnp.zeros(32), keys_of(10, 32), Sampling(*map(jnp.float32, sampling))).tokens

    before = tokens(1.0, 0, 1.0)
    programs = drawn._cache_size()
    for other in ((3.0, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.3)):
        assert (tokens(*other) != before).any()
    assert drawn._cache_size() == programs


@pytest.mark.parametrize("sequences", [[], [[]], [[1], []]])
def test_refuses_stop_sequences_that_stop_at_once(sequences):
    with pytest.raises(ValueError, match="must be one or more non-empty lists"):
        make_stops(sequences)
