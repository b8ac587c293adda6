"""Cached decoding: one token after the other for a batch of rows, until every row has stopped.

The model comes as a function that appends tokens to a cache, so this works with any. Each row has
a key of its own: what it draws depends on neither its neighbours nor the padding.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.sampling.distribution import sampled_logprobs

# Appends the first count[b] of tokens[b] to row b of the cache; returns the logits f32[B, V] that
# follow the last of them (for a row without new tokens, anything), and the cache.
Append = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


@struct.dataclass
class Sampling:
    """How tokens are drawn; all of it data. See `distribution.sampled_logprobs`."""

    temperature: jax.Array | float = 1.0
    top_k: jax.Array | int = 0
    top_p: jax.Array | float = 1.0


@struct.dataclass
class Stops:
    """Token sequences that end a row, the sequence included."""

    tokens: jax.Array  # i32[K, M] right-aligned, padded with -1


@struct.dataclass
class Decoded:
    """What was drawn, and where the rows now stand."""

    tokens: jax.Array  # i32[B, N] zero padded
    length: jax.Array  # i32[B] tokens drawn, a stop sequence included
    stopped: jax.Array  # bool[B] by a stop sequence, not by the limit
    behaviour_logprobs: jax.Array  # f32[B, N] of the distribution really sampled; 0 in padding
    logits: jax.Array  # f32[B, V] what follows each row's last token
    cache: Any


def make_stops(sequences: list[list[int]]) -> Stops:
    """Raises ValueError for an empty sequence, which would stop every row at once."""
    if not sequences or not all(sequences):
        raise ValueError(
            f"stop sequences {sequences!r} must be one or more non-empty lists of token ids, such "
            "as [[eos_id]]"
        )
    M = max(map(len, sequences))
    table = np.array([[-1] * (M - len(ids)) + list(ids) for ids in sequences], np.int32)
    return Stops(jnp.asarray(table))


def decode(
    append: Append,
    cache: Any,
    logits: jax.Array,  # f32[B, V] what follows the tokens in the cache
    keys: jax.Array,  # key[B]
    active: jax.Array,  # bool[B] rows that answer; the others draw nothing
    sampling: Sampling,
    stops: Stops,
    *,
    size: int,  # N, the most tokens a row may draw
) -> Decoded:
    """Draws up to `size` tokens a row; the loop ends when every row has stopped."""
    B, _ = logits.shape
    chex.assert_shape([keys, active], (B,))
    M = stops.tokens.shape[1]
    draw = jax.vmap(functools.partial(_draw, sampling))

    def unfinished(carry):
        place, running, *_ = carry
        return (place < size) & jnp.any(running)

    def step(carry):
        place, running, decoded, recent = carry
        token_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, place)
        token, logprob = draw(token_keys, decoded.logits)
        token = jnp.where(running, token, 0)
        recent = jnp.where(
            running[:, None], jnp.concatenate([recent[:, 1:], token[:, None]], axis=1), recent
        )
        ended = running & _ends(recent, stops)
        new_logits, cache = append(decoded.cache, token[:, None], running.astype(jnp.int32))
        decoded = Decoded(
            tokens=decoded.tokens.at[:, place].set(token),
            length=decoded.length + running,
            stopped=decoded.stopped | ended,
            behaviour_logprobs=decoded.behaviour_logprobs.at[:, place].set(
                jnp.where(running, logprob, 0.0)
            ),
            logits=jnp.where(running[:, None], new_logits, decoded.logits),
            cache=cache,
        )
        return place + 1, running & ~ended, decoded, recent

    empty = Decoded(
        tokens=jnp.zeros((B, size), jnp.int32),
        length=jnp.zeros(B, jnp.int32),
        stopped=jnp.zeros(B, bool),
        behaviour_logprobs=jnp.zeros((B, size), jnp.float32),
        logits=logits.astype(jnp.float32),
        cache=cache,
    )
    start = (jnp.int32(0), active, empty, jnp.full((B, M), -2, jnp.int32))
    return jax.lax.while_loop(unfinished, step, start)[2]


def _draw(
    sampling: Sampling, key: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array]:  # i32[], f32[]
    logprobs = sampled_logprobs(
        logits,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    token = jax.random.categorical(key, logprobs).astype(jnp.int32)
    return token, logprobs[token]


def _ends(
    recent: jax.Array,  # i32[B, M] each row's last tokens, -2 before its first
    stops: Stops,
) -> jax.Array:  # bool[B]
    free = stops.tokens[None] == -1
    return jnp.any(jnp.all(free | (recent[:, None] == stops.tokens[None]), axis=2), axis=1)
