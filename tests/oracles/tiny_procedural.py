"""Procedural tasks at play: compiled once for all tests, arrays as text and back."""

import functools

import jax
import numpy as np

from rlrazor.runtime.tokenizer import build_closed_tokenizer, vocabulary
from rlrazor.tasks.procedural.pieces import TASKS, procedural_phrases
from rlrazor.tasks.procedural.task import make_procedural

TOKENIZER = build_closed_tokenizer(
    procedural_phrases(), "".join(map(chr, (10, *range(0x20, 0x7F))))
)
CLOSED = vocabulary(TOKENIZER)
UNIFORM = np.ones(len(TASKS))
COUNT = 2048  # states drawn at once, everywhere, so that one program serves all tests

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def only(task):
    """Weights that ask one task alone."""
    return np.eye(len(TASKS))[TASKS.index(task)]


def make(*, weights=UNIFORM, part="all", **options):
    return make_procedural(CLOSED, weights=weights, part=part, **options)


@jit
def resets(task, keys):
    return jax.vmap(task.reset)(keys)


@jit
def sides(task, states):
    """Observation, demonstration and the judge's bytes of every state."""

    def demonstrate(state):
        return task.demonstrate(None, state)

    return [jax.vmap(f)(states) for f in (task.opening, demonstrate, task.answer_bytes)]


@jit
def steps(task, states, answers):
    return jax.vmap(task.step)(states, answers)


@jit
def steps_of_one(task, state, answers):
    return jax.vmap(task.step, in_axes=(None, 0))(state, answers)


def texts(task, states, *, decode=CLOSED.decode):
    """(question, answer) of every state, from tokens."""
    observation, (answers, lengths), _ = jax.device_get(sides(task, states))
    rows = zip(observation.tokens, observation.length, answers, lengths, strict=True)
    return [(decode(q[:m].tolist()), decode(a[:n].tolist())) for q, m, a, n in rows]


def keys(seed):
    return jax.random.split(jax.random.key(seed), COUNT)


def draw(task, seed=0):
    """COUNT states and their (question, answer)."""
    states = resets(task, keys(seed))
    return states, texts(task, states)


def as_bytes(answers, size=None):
    """u8[N, size], zero padded."""
    rows = [a.encode() if isinstance(a, str) else a for a in answers]
    size = max(map(len, rows), default=0) if size is None else size
    joined = b"".join(row.ljust(size, b"\0") for row in rows)
    return np.frombuffer(joined, np.uint8).reshape(len(rows), size)


def failures(verdict):
    """The name of each verdict's failure, or an empty string; two would be an error."""
    names = list(verdict.failures)
    flags = np.stack([np.asarray(verdict.failures[name]) for name in names], axis=-1)
    assert (flags.sum(axis=-1) <= 1).all()
    return [names[np.argmax(row)] if row.any() else "" for row in flags]
