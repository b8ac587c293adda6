"""A policy from a pure function of one's own, replicated and without a cache."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlrazor.ops.chunked import in_chunks
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.policies.policy import OverVocabulary, Reading
from rlrazor.runtime.mesh import each_alone, make_mesh, pad_runs
from rlrazor.sampling.decode import Sampling, Stops
from rlrazor.sampling.distribution import logits_as_sampled
from rlrazor.sampling.episodes import Player, Rollout, play
from rlrazor.tasks.protocol import Task
from rlrazor.types import Params, Rows, Rule

CHUNK = 256  # tokens of a row whose distribution is in memory at a time


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionPolicy:
    """A `Policy` whose logits behind a token follow from the tokens up to it, and nothing else.

    For small models: every token that is drawn reads its whole row again. With `hidden`, `logits`
    is a function of its states f32[B, T, D], which a critic sees too; without, it sees the logits.
    """

    logits: Callable[[Params, jax.Array], jax.Array]  # (params, tokens i32[B, T]) -> f32[B, T, V]
    _: dataclasses.KW_ONLY
    answer_tokens: int  # of a turn, at most
    stops: Stops
    spelling: tuple[jax.Array, jax.Array]  # u8[V, M], i32[V]: the bytes of every token
    answer_bytes: int  # of the text that is judged
    sampling: Sampling = dataclasses.field(default_factory=Sampling)  # of training; Python numbers
    hidden: Callable[[Params, jax.Array], jax.Array] | None = None  # (params, tokens) -> states
    width: int = 0  # D of `hidden`; without it, V
    mesh: Mesh = dataclasses.field(default_factory=lambda: make_mesh(data=1))
    rules: Sequence[Rule] = ()
    replicated: bool = True

    def __post_init__(self):
        V = self.spelling[0].shape[0]
        if self.width not in (0, V) if self.hidden is None else self.width < 1:
            raise ValueError(f"width={self.width} must be the D of hidden's states, where given")
        object.__setattr__(self, "width", self.width or V)  # so that a copy may be made of it

    def initial(self, base: Params, key: jax.Array) -> Params:
        return base

    def assemble(self, trained: Params, base: Params) -> Params:
        return trained

    def read(self, params: Params, rows: Rows) -> Reading:
        (B, T), prompt = rows.tokens.shape, rows.prompt_count
        start = jnp.ones(B, jnp.int32) if prompt is None else jnp.maximum(prompt, 1)
        place = start[:, None] + jnp.arange(T - 1)[None]
        real = place < rows.count[:, None]
        states = _take((self.hidden or self.logits)(params, rows.tokens), place - 1)
        tokens = jnp.where(real, _take(rows.tokens, place), 0)
        return Reading(params, states, tokens, jnp.where(real, place, T), T, prompt is not None)

    def logprobs(self, reading: Reading) -> jax.Array:
        return self.over_vocabulary(token_logprobs, reading)

    def over_vocabulary(self, fn: OverVocabulary, *readings: Reading) -> Any:
        first, A = readings[0], readings[0].tokens.shape[1]  # another's row may be longer

        def of_chunk(tokens: jax.Array, *states: jax.Array) -> Any:
            each = (self._logits(r.params, s) for r, s in zip(readings, states, strict=True))
            sampled = (logits_as_sampled(x, tokens, **vars(self.sampling)) for x in each)
            return fn(*map(jax.nn.log_softmax, sampled), tokens)

        def put(found: jax.Array) -> jax.Array:  # [B, A] -> [B, T]
            rows = jnp.zeros((len(found), first.size), found.dtype)
            return rows.at[jnp.arange(len(found))[:, None], first.place].set(found, mode="drop")

        found = in_chunks(of_chunk, first.tokens, *(r.states[:, :A] for r in readings), size=CHUNK)
        return jax.tree.map(put, found)

    def play(self, params: Params, task: Task, dealt: Any, keys: jax.Array, sampling: Sampling,
             *, turns: int, samples: int = 1) -> Rollout:  # fmt: skip
        def answer(params: Params, rows: Any) -> Rollout:
            (dealt, keys), player = rows, self._player(params)
            return play(player, task, dealt, keys, sampling, turns=turns, samples=samples)

        # Devices take equally many: the last one is repeated.
        padded = pad_runs(len(keys), self.mesh)
        rows = jax.tree.map(lambda leaf: leaf[padded], (dealt, keys))
        rollout = each_alone(answer, self.mesh)(params, rows)
        return jax.tree.map(lambda leaf: leaf[: len(keys) * samples], rollout)

    def _logits(self, params: Params, states: jax.Array) -> jax.Array:  # f32[B, n, V]
        return states if self.hidden is None else self.logits(params, states)

    def _player(self, params: Params) -> Player:
        def append(cache, tokens, count):
            rows, length = cache
            new = jnp.arange(tokens.shape[1])[None]
            slots = jnp.where(new < count[:, None], length[:, None] + new, rows.shape[1])
            rows = rows.at[jnp.arange(len(rows))[:, None], slots].set(tokens, mode="drop")
            states = (self.hidden or self.logits)(params, rows)
            last = _take(states, (length + count)[:, None] - 1)
            return self._logits(params, last)[:, 0], (rows, length + count)

        def empty(rows: int, slots: int):
            return jnp.zeros((rows, slots), jnp.int32), jnp.zeros(rows, jnp.int32)

        def repeat(cache, times: int):
            return tuple(jnp.repeat(x, times, axis=0) for x in cache)

        return Player(append, empty, repeat, self.stops, self.spelling, self.answer_tokens,
                      self.answer_bytes)  # fmt: skip


def _take(rows: jax.Array, place: jax.Array) -> jax.Array:  # [B, T, D] or [B, T] at i32[B, A]
    place = jnp.clip(place, 0, rows.shape[1] - 1)
    return jnp.take_along_axis(rows, place.reshape(*place.shape, *(1,) * (rows.ndim - 2)), axis=1)
