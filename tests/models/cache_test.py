import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models.cache import KVCache, init_cache, repeat_rows, write
from tests.oracles.tiny_transformers import FULL, PLAIN, make, quick, with_embedding

B, T, S, V = 3, 14, 12, FULL.vocabulary
TOKENS = np.random.default_rng(0).integers(0, V - 1, (B, T))
JUNK = V - 1
# (width, tokens a row that are real) of every append.
RAGGED = [(4, (4, 2, 0)), (4, (1, 4, 3)), (1, (1, 1, 1)), (1, (1, 0, 1)), (1, (0, 1, 1))]
RAGGED += [(4, (4, 3, 1))]


def machine(config):
    """Model, parameters, compiled append (one trace a width), hidden states without a cache."""
    model, params = make(config)
    whole = quick(lambda params: model.apply(params, TOKENS)[0])(params)
    chex.clear_trace_counter()
    append = chex.assert_max_traces(lambda p, t, c, n: model.apply(p, t, cache=c, count=n), n=2)
    return model, params, quick(append), whole


@pytest.fixture(scope="module")
def full():
    return machine(FULL)


def feed(append, params, cache, steps, junk=JUNK):
    """Appends in `steps`; returns the real hidden states by row and the cache."""
    at, seen = np.zeros(B, int), [[] for _ in range(B)]
    for width, count in steps:
        tokens = np.full((B, width), junk)
        for b, n in enumerate(count):
            tokens[b, :n] = TOKENS[b, at[b] : at[b] + n]
        hidden, cache = append(params, tokens, cache, np.array(count))
        for b, n in enumerate(count):
            seen[b].extend(np.asarray(hidden[b, :n]))
        at += np.array(count)
    return [np.array(rows) for rows in seen], cache


@pytest.mark.parametrize("config", [FULL, dataclasses.replace(PLAIN, scan_layers=False)])
def test_ragged_appends_equal_the_uncached_pass(config, full):
    """Several tokens and single ones in any order, rows of different and of zero length."""
    _, params, append, whole = full if config is FULL else machine(config)
    seen, cache = feed(append, params, init_cache(config, B, S, jnp.float32), RAGGED)
    total = np.sum([count for _, count in RAGGED], axis=0)
    np.testing.assert_array_equal(cache.filled, total)
    for b in range(B):
        assert len(seen[b]) == total[b]
        np.testing.assert_allclose(seen[b], whole[b, : total[b]], atol=1e-5)


def test_junk_behind_the_real_tokens_changes_nothing(full):
    _, params, append, _ = full
    empty = init_cache(FULL, B, S, jnp.float32)
    table = params["params"]["embed"]["embedding"].copy()
    table[JUNK] = np.nan
    clean, _ = feed(append, params, empty, RAGGED, junk=0)
    other, cache = feed(append, with_embedding(params, table), empty, RAGGED)
    chex.assert_trees_all_equal(clean, other)
    chex.assert_tree_all_finite(cache)


def test_without_a_count_all_tokens_are_real(full):
    model, params, _, whole = full
    cache = init_cache(FULL, B, T, jnp.float32)
    hidden, cache = quick(lambda p, c: model.apply(p, TOKENS, cache=c))(params, cache)
    np.testing.assert_array_equal(cache.filled, T)
    np.testing.assert_allclose(hidden, whole, atol=1e-5)


def test_a_full_row_drops_tokens_counts_them_and_leaves_the_others_alone(full):
    _, params, append, whole = full
    cache = init_cache(FULL, B, S, jnp.float32)
    _, before = feed(append, params, cache, [(4, (4, 4, 2)), (4, (4, 4, 0)), (4, (3, 3, 0))])
    start, count = np.asarray(before.filled), np.array([1, 3, 3])  # 11, 11 and 2 of 12 slots
    tokens = np.stack([np.append(TOKENS[b, start[b] : start[b] + 3], JUNK) for b in range(B)])
    hidden, cache = append(params, tokens, before, count)
    np.testing.assert_array_equal(cache.filled, start + count)
    np.testing.assert_array_equal(cache.filled > cache.slots, [False, True, False])
    for kept, was in ((cache.keys, before.keys), (cache.values, before.values)):
        np.testing.assert_array_equal(
            kept[:, :2, :, :11], was[:, :2, :, :11]
        )  # nothing overwritten
    np.testing.assert_allclose(hidden[:2, 0], whole[:2, 11], atol=1e-5)  # the last that fits
    np.testing.assert_allclose(hidden[2, :3], whole[2, 2:5], atol=1e-5)
    chex.assert_tree_all_finite((hidden, cache))


def test_repeated_rows_go_on_as_the_row_would(full):
    _, params, append, whole = full
    _, cache = feed(append, params, init_cache(FULL, B, S, jnp.float32), [(4, (4, 3, 2))])
    row = KVCache(keys=cache.keys[:, 1:2], values=cache.values[:, 1:2], filled=cache.filled[1:2])
    many = repeat_rows(row, B)
    np.testing.assert_array_equal(many.filled, 3)
    hidden, _ = append(params, TOKENS[[1, 1, 1], 3][:, None], many, np.ones(B, int))
    np.testing.assert_allclose(hidden[:, 0], whole[[1, 1, 1], 3], atol=1e-5)
    order = repeat_rows(cache, 2)
    np.testing.assert_array_equal(order.filled, [4, 4, 3, 3, 2, 2])
    np.testing.assert_array_equal(order.keys[:, 4:], np.repeat(cache.keys[:, 2:], 2, axis=1))


def test_a_bfloat16_cache_keeps_its_type_and_is_near(full):
    model, params, _, whole = full
    append = quick(lambda p, t, c, n: model.apply(p, t, cache=c, count=n))
    cache = init_cache(FULL, B, S, jnp.bfloat16)
    seen, cache = feed(append, params, cache, [(4, (4, 4, 4)), (4, (2, 2, 2))])
    chex.assert_type([cache.keys, cache.values], jnp.bfloat16)
    error = np.abs(np.stack(seen) - whole[:, :6])
    assert 1e-4 < error.mean() < 0.03


def test_decoding_in_a_loop_makes_no_second_copy_of_the_cache():
    """A carry that the compiler updates in place: layers do not stack a new one."""
    config = dataclasses.replace(PLAIN, layers=8)
    model, params = make(config)
    cache = init_cache(config, 4, 512, jnp.float32)

    def decode(params, token, cache):
        def step(_, carry):
            token, cache = carry
            hidden, cache = model.apply(params, token, cache=cache)
            logits = model.apply(params, hidden, method="logits")
            return jnp.argmax(logits, -1).astype(token.dtype), cache

        return jax.lax.fori_loop(0, 3, step, (token, cache))

    token = jnp.zeros((4, 1), jnp.int32)
    compiled = jax.jit(decode).lower(params, token, cache).compile()
    both = cache.keys.nbytes + cache.values.nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < both / 2
    np.testing.assert_array_equal(compiled(params, token, cache)[1].filled, 3)


def test_write_touches_only_its_layer_and_slots():
    slots = jnp.asarray([[0, 1], [3, 4]])
    out = quick(write)(jnp.zeros((2, 2, 1, 4, 2)), jnp.ones((2, 2, 1, 2)), jnp.asarray(1), slots)
    expected = np.zeros((2, 2, 4))
    expected[1, 0, [0, 1]] = expected[1, 1, 3] = 1
    np.testing.assert_array_equal(out[:, :, 0, :, 0], expected)
