"""A language model of two matrices beside its twin in float64, and a task of digits to play.

What follows a token depends on it and on the mean of all up to it, so every token of a row matters.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.policies.function import FunctionPolicy
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.tasks.protocol import Observation, Verdict
from rlrazor.types import Rows

V, D = 8, 3
OTHER, END, ZERO = 0, 1, 2  # 2 to 7 spell 0 to 5, the others nothing
ANSWER_TOKENS = 4
SPELLING = (
    jnp.array([[0], [0], *([48 + digit] for digit in range(V - ZERO))], jnp.uint8),
    jnp.array([0, 0] + [1] * (V - ZERO)),
)


def hidden(params, tokens):
    x = jnp.asarray(params["embed"])[tokens]
    count = jnp.arange(1.0, tokens.shape[1] + 1)[None, :, None]
    return jnp.tanh(x + jnp.cumsum(x, axis=1) / count)


def logits(params, states):
    return states @ params["head"]


def make(seed):
    rng = np.random.default_rng(seed)
    draw = functools.partial(rng.normal, 0, 1)
    params = {"embed": draw(size=(V, D)), "head": draw(size=(D, V))}
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), params)


def policy(temperature=1.0, top_k=0, top_p=1.0, **options):
    return FunctionPolicy(
        logits,
        hidden=hidden,
        width=D,
        answer_tokens=ANSWER_TOKENS,
        stops=make_stops([[END]]),
        spelling=SPELLING,
        answer_bytes=6,
        sampling=Sampling(temperature, top_k, top_p),
        **options,
    )


# The twin: one row, one token, float64.


def twin_state(params, before):  # the tokens read so far -> f64[D]
    x = np.float64(params["embed"])[np.asarray(before)]
    return np.tanh(x[-1] + x.mean(axis=0))


def twin_distribution(params, before, temperature=1.0):  # log-probabilities f64[V]
    scores = twin_state(params, before) @ np.float64(params["head"]) / temperature
    return scores - np.log(np.exp(scores).sum())


def twin_distributions(params, tokens, mask, temperature=1.0):  # f64[B, T, V]; 0 outside the mask
    found = np.zeros((*tokens.shape, V))
    for b, t in zip(*np.nonzero(mask), strict=True):
        found[b, t] = twin_distribution(params, tokens[b, :t], temperature)
    return found


def chosen(log_policy, tokens):
    return np.take_along_axis(log_policy, np.asarray(tokens)[..., None], axis=-1)[..., 0]


# The task: two digits are named; an answer is worth its digits' sum plus theirs, modulo 4.


@struct.dataclass
class State:
    digits: jax.Array  # i32[2]
    turn: jax.Array
    heard: jax.Array  # first byte of the last answer, or 0
    terminated: jax.Array
    truncated: jax.Array


@struct.dataclass
class Sums:
    budget: jax.Array  # i32[] turns

    def reset(self, key):
        over = jnp.bool_(False)
        digits = jax.random.randint(key, (2,), 0, V - ZERO)
        return State(digits, jnp.int32(0), jnp.int32(0), over, over)

    def opening(self, state):
        return Observation(
            jnp.append(ZERO + state.digits, OTHER).astype(jnp.int32), 2 + state.digits[0] % 2
        )

    def reply(self, state):
        return Observation(
            jnp.stack([OTHER, ZERO + state.heard % (V - ZERO)]).astype(jnp.int32), jnp.int32(2)
        )

    def step(self, state, answer):
        worth = jnp.sum(jnp.where(answer > 0, answer.astype(jnp.int32) - 48, 0))
        worth = (worth + jnp.sum(state.digits)) % 4
        correct, turn = worth == 3, state.turn + 1
        truncated = ~correct & (turn >= self.budget)
        heard = answer[0].astype(jnp.int32)
        new = dataclasses.replace(
            state, turn=turn, heard=heard, terminated=correct, truncated=truncated
        )
        return new, Verdict(jnp.float32(worth), correct)


def worth(digits, answer):
    """The judge once more, in Python, on tokens."""
    return (sum(int(t) - ZERO for t in answer if t >= ZERO) + int(sum(digits))) % 4


class Teacher:
    """An `Expert`: one or two digits that make the answer right, or any two."""

    def demonstrate(self, key, state):
        lacking = (3 - jnp.sum(state.digits)) % 4
        first = jax.random.randint(key, (), 0, lacking + 1)
        both = ZERO + jnp.stack([first, lacking - first])
        length = jnp.where(first == lacking, 1, 2)
        return jnp.where(jnp.arange(2) < length, both, 0).astype(jnp.int32), length

    def mistake(self, key, state):
        return ZERO + jax.random.randint(key, (2,), 0, V - ZERO), jnp.int32(2)


def rows_of(tokens, mask, **columns) -> Rows:
    """Rows from NumPy's arrays, whose last masked token is the last real one."""
    place = np.arange(tokens.shape[1]) + 1
    count = np.max(np.where(mask, place, 0), axis=1).astype(np.int32)
    columns = {"count": count, **columns}
    return Rows(tokens=jnp.asarray(tokens), mask=jnp.asarray(mask),
                **jax.tree.map(jnp.asarray, columns))  # fmt: skip
