"""Which questions are for training and which are held out: a hash of the text decides.

A question is held out if and only if mix(h) is a multiple of 10, where h = h P + byte (modulo 2^32)
over the bytes of its text from h = 0. The same text is in the same part whatever the sizes, the
weights or the tokenizer, and one part can be told from the other by the text alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.tasks.procedural.pieces import PIECES

PARTS = ("train", "held_out", "all")
TRAIN, HELD_OUT, ALL = range(3)
ONE_IN = 10  # questions is held out

P = 16_777_619  # any odd number would do; this one is the prime of the FNV hashes
_WORD = 2**32


def belongs(
    asked: jax.Array,  # i32[Q] pieces of a question
    part: jax.Array,  # i32[] index into PARTS
) -> jax.Array:  # bool[]
    """Whether the question is of that part."""
    return (part == ALL) | (is_held_out(asked) == (part == HELD_OUT))


def is_held_out(asked: jax.Array) -> jax.Array:  # i32[Q] pieces -> bool[]
    """What the hash of its text says of a question."""
    # A piece of n bytes takes h to h P^n + its own hash, hence padding leaves h alone.
    own = jnp.asarray([_hash(piece.encode()) for piece in PIECES], jnp.uint32)[asked]
    power = jnp.asarray([pow(P, len(p.encode()), _WORD) for p in PIECES], jnp.uint32)[asked]
    h = jnp.uint32(0)
    for i in range(len(asked)):
        h = h * power[i] + own[i]
    return _mix(h) % ONE_IN == 0


def _hash(text: bytes) -> int:
    h = 0
    for byte in text:
        h = (h * P + byte) % _WORD
    return h


def _mix(h: jax.Array) -> jax.Array:  # u32[]
    """Spreads every bit over all (the last step of MurmurHash3), for h P + byte alone does not."""
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
