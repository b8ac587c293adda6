"""The language-model policy: small, Qwen or Llama, whole or adapters, on one device or a mesh."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlrazor.models.attend import resolve
from rlrazor.models.cache import init_cache, repeat_rows
from rlrazor.models.decoding import init_caches, layers_appender, repeat_caches
from rlrazor.models.lora import apply_beside, init_lora, lora_rules, merge
from rlrazor.models.partition import CACHE_RULES, transformer_rules
from rlrazor.models.scoring import over_vocabulary
from rlrazor.models.transformer import Transformer, appender
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.policies.policy import OverVocabulary, Reading
from rlrazor.runtime.mesh import (
    each_alone,
    for_decoding,
    holders_of,
    layout,
    on_mesh,
    shardings_of,
)
from rlrazor.sampling.decode import Sampling, Stops
from rlrazor.sampling.distribution import logits_as_sampled
from rlrazor.sampling.episodes import Player, Rollout, play
from rlrazor.tasks.protocol import Task
from rlrazor.types import ROWS, Params, Rows, Rule


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerFormat:
    """How answers end, what they spell, and how long they may be."""

    stops: Stops
    spelling: tuple[jax.Array, jax.Array]  # u8[V, M], i32[V]: the bytes of every token
    tokens: int  # a turn, at most
    bytes: int  # of the text that a task judges
    forbidden: tuple[int, ...] = ()  # tokens that have no probability, such as image placeholders


@dataclasses.dataclass(frozen=True)
class Lora:
    """Adapters beside the matrices that `targets` name; see `models.lora`."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, eq=False)
class LanguagePolicy:
    """A `Policy`; `make_language_policy` makes it.

    Replicated, every device reads and answers rows of its own, and none waits for another. Sharded,
    devices share every layer. `read` shares prompts where it is replicated and attends by plain
    products: attention kernels know whole rows only, and so does the layout of a sharded model.
    """

    model: Transformer
    mesh: Mesh
    rules: tuple[Rule, ...]  # of parameters and adapters
    replicated: bool
    sampling: Sampling  # Python numbers
    answers: AnswerFormat
    vocabulary_chunk: int  # tokens of a row whose logits are in memory at a time
    lora: Lora | None

    @property
    def width(self) -> int:
        return self.model.config.width

    @property
    def answer_tokens(self) -> int:
        return self.answers.tokens

    def initial(self, base: Params, key: jax.Array) -> Params:
        """The base itself, or new adapters, which change nothing."""
        if self.lora is None:
            return base
        return init_lora(key, base, targets=self.lora.targets, rank=self.lora.rank)

    def assemble(self, trained: Params, base: Params) -> Params:
        """All parameters; adapters lie beside those of the base, which have no gradient."""
        return trained if self.lora is None else apply_beside(base, trained, self.lora.scale)

    def merged(self, trained: Params, base: Params) -> Params:
        """All parameters as a model without adapters, to be saved or to be sampled from."""
        return trained if self.lora is None else merge(base, trained, self.lora.scale)

    def read(self, params: Params, rows: Rows) -> Reading:
        """One forward pass; see `Policy`.

        Rows that break `Rows.prompt_size`'s promise have states of NaN, for their last tokens
        would be lost.
        """
        B, T = rows.tokens.shape
        prompted = rows.prompt_count is not None
        prompt_count = jnp.ones(B, jnp.int32) if rows.prompt_count is None else rows.prompt_count
        samples = math.gcd(B, rows.samples)  # those that a microbatch has side by side
        start = jnp.maximum(prompt_count, 1)
        size = T - max(rows.prompt_size, 1) if prompted else T - 1
        place = start[:, None] + jnp.arange(size)[None]
        real = place < rows.count[:, None]
        tokens = jnp.where(real, _take(rows.tokens, place), 0)
        alike = self.replicated and self.model.config.attention == "einsum"
        if alike and prompted and samples > 1 and rows.prompt_size:
            left = jnp.maximum(rows.count - start, 0)
            openings = rows.tokens[::samples, : rows.prompt_size]
            length = jnp.minimum(start, rows.count)[::samples]
            states = self._read_groups(params, openings, length, tokens, left)
        else:
            hidden: Any = self.model.apply(params, rows.tokens, count=rows.count)[0]
            states = _take(hidden, place - 1) if prompted else hidden[:, :-1]
        if prompted and rows.prompt_size:
            fits = rows.count - start <= size
            states = jnp.where(fits[:, None, None], states, jnp.nan)
        return Reading(params, states, tokens, jnp.where(real, place, T), T, prompted)

    def _read_groups(
        self,
        params: Params,
        openings: jax.Array,  # i32[P, prompt_size]
        length: jax.Array,  # i32[P]
        rest: jax.Array,  # i32[P G, A] what follows each
        left: jax.Array,  # i32[P G] real tokens of it
    ) -> jax.Array:  # [P G, A, D] states from which each of the rest is predicted
        """The gradient is that of rows apart, the work that of P prompts instead of P G."""
        c, P = self.model.config, len(openings)
        samples = len(rest) // P
        cache: Any = init_cache(c, P, openings.shape[1] + rest.shape[1], c.compute_dtype)
        read: Any
        read, cache = self.model.apply(params, openings, cache=cache, count=length)
        last = jnp.repeat(_take(read, length[:, None] - 1), samples, axis=0)
        cache = repeat_rows(cache, samples)
        hidden: Any = self.model.apply(params, rest, cache=cache, count=left)[0]
        return jnp.concatenate([last, hidden[:, :-1]], axis=1)

    def logprobs(self, reading: Reading) -> jax.Array:
        """f32[B, T]; 0 where nothing is scored. A sampled token is never cut off, see `sampling`.

        Forbidden tokens, which only others can have said, have -inf.
        """

        def score(logits: jax.Array, tokens: jax.Array) -> jax.Array:
            return token_logprobs(self._as_sampled(logits, tokens), tokens)

        return self._scatter(reading, self._in_chunks(score, reading))

    def over_vocabulary(self, fn: OverVocabulary, *readings: Reading) -> Any:
        """See `Policy`. The j-th scored token of every reading is the same token.

        So readings of one row by several parameters always match; those of one answer behind
        several prompts do if their rows have `prompt_count`.
        """

        def judge(*arrays: jax.Array) -> Any:
            *logits, tokens = arrays
            return fn(*(jax.nn.log_softmax(self._as_sampled(each)) for each in logits), tokens)

        first = readings[0]
        for other in readings[1:]:
            if other.behind_prompt != first.behind_prompt or (
                not first.behind_prompt and other.size != first.size
            ):
                raise ValueError(
                    f"readings of {first.size} and {other.size} tokens a row cannot be matched: "
                    "give all rows a prompt_count, or compare readings of the same rows"
                )
        found = self._in_chunks(judge, *readings)
        return jax.tree.map(functools.partial(self._scatter, first), found)

    def _as_sampled(self, logits: jax.Array, tokens: jax.Array | None = None) -> jax.Array:
        how = self.sampling
        return logits_as_sampled(
            self._allow(logits),
            tokens,
            temperature=float(how.temperature),
            top_k=int(how.top_k),
            top_p=float(how.top_p),
        )

    def _allow(self, logits: jax.Array) -> jax.Array:  # f32[..., V]
        if not self.answers.forbidden:
            return logits
        allowed = ~np.isin(np.arange(logits.shape[-1]), self.answers.forbidden)
        allowed = np.expand_dims(allowed, tuple(range(logits.ndim - 1)))
        return jnp.where(allowed, logits, -jnp.inf)

    def _in_chunks(self, fn: OverVocabulary, *readings: Reading) -> Any:  # tree of [B, A]
        tokens = readings[0].tokens
        states = [(each.params, _resize(each.states, tokens.shape[1])) for each in readings]
        return over_vocabulary(fn, self.model, states, tokens, size=self.vocabulary_chunk)

    def _scatter(self, reading: Reading, found: jax.Array) -> jax.Array:  # [B, A] -> [B, T]
        def put(place, values):
            return jnp.zeros(reading.size, values.dtype).at[place].set(values, mode="drop")

        return jax.vmap(put)(reading.place, found)

    def play(
        self,
        params: Params,
        task: Task,
        dealt: Any,  # states [P]
        keys: jax.Array,  # key[P]
        sampling: Sampling,
        *,
        turns: int,
        samples: int = 1,
    ) -> Rollout:
        """Episodes of any task, the same on every mesh; see `sampling.episodes.play`.

        Where there are fewer prompts than devices, these share a prompt's samples if they can;
        else prompts are repeated until devices have equally many, and the repetitions dropped.
        """
        P, holders = len(keys), holders_of(self.mesh)
        readings = holders // math.gcd(holders, P)
        if holders <= P or samples % readings:
            readings = 1
        count = P * readings if readings > 1 else -(-P // holders) * holders
        which = np.arange(count) // readings % P
        each = samples // readings
        first = jnp.asarray(np.arange(count) % readings * each)
        if count > P:
            dealt, keys = jax.tree.map(lambda leaf: leaf[which], (dealt, keys))

        # A task's tables are arguments: within `each_alone` nothing of outside may be indexed.
        leaves, structure = jax.tree.flatten(task)
        tables = [leaf if isinstance(leaf, jax.Array) else None for leaf in leaves]

        def answer(shared: tuple[Params, list[Any]], rows: Any) -> Rollout:
            params, tables = shared
            known = [
                mine if mine is not None else leaf
                for mine, leaf in zip(tables, leaves, strict=True)
            ]
            task = jax.tree.unflatten(structure, known)
            dealt, keys, first = rows
            player = self._player(params)
            return play(
                player, task, dealt, keys, sampling, turns=turns, samples=each, first_sample=first
            )

        if self.replicated:
            rollout = each_alone(answer, self.mesh)((params, tables), (dealt, keys, first))
        else:
            dtype = self.model.config.compute_dtype
            held = for_decoding(params, self.rules, self.mesh, dtype)
            rollout = answer((held, tables), self._by_row((dealt, keys, first)))
        if count * each > P * samples:
            rollout = jax.tree.map(lambda leaf: leaf[: P * samples], rollout)
        return dataclasses.replace(rollout, samples=samples)

    def _player(self, params: Params) -> Player:
        c, answers = self.model.config, self.answers
        place_cache, place_rows = _as_is, _as_is
        start, empty, repeat = appender, init_cache, repeat_rows
        if not c.scan_layers:
            start, empty, repeat = layers_appender, init_caches, repeat_caches
        append = start(self.model, params)
        if not self.replicated:
            place_cache, place_rows = self._cache_by_row, self._by_row

        def append_allowed(cache, tokens, count):
            logits, cache = append(cache, tokens, count)
            return place_rows(self._allow(logits)), cache

        return Player(
            append_allowed,
            lambda rows, slots: place_cache(empty(c, rows, slots, c.compute_dtype)),
            lambda cache, times: place_cache(repeat(cache, times)),
            answers.stops,
            answers.spelling,
            answers.tokens,
            answers.bytes,
        )

    def _by_row(self, tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, on_mesh(self.mesh, ROWS))

    def _cache_by_row(self, cache: Any) -> Any:
        at = shardings_of(cache, CACHE_RULES, self.mesh)
        return jax.lax.with_sharding_constraint(cache, at)


def make_language_policy(
    config: TransformerConfig,
    mesh: Mesh,
    *,
    answers: AnswerFormat,
    sampling: Sampling,  # of training; Python numbers
    vocabulary_chunk: int,
    lora: Lora | None = None,  # None trains all parameters
) -> LanguagePolicy:
    """Replicated on a mesh whose fsdp and tensor are 1, else sharded by `rules`.

    ValueError for a sampling that is no distribution, and for adapters without rank.
    """
    _check_sampling(sampling)
    if lora is not None and lora.rank < 1:
        raise ValueError(f"lora.rank={lora.rank} must be at least 1; lora=None trains all")
    platform = mesh.devices.flat[0].platform
    attention = resolve(config.attention, platform, config.compute_dtype)
    config = dataclasses.replace(config, attention=attention)
    of_model = transformer_rules(config)
    rules = (*of_model, *lora_rules(of_model))
    replicated = mesh.shape["fsdp"] == mesh.shape["tensor"] == 1
    told = None if replicated else layout(mesh, rules)
    return LanguagePolicy(
        model=Transformer(config, told),
        mesh=mesh,
        rules=rules,
        replicated=replicated,
        sampling=sampling,
        answers=answers,
        vocabulary_chunk=vocabulary_chunk,
        lora=lora,
    )


def _check_sampling(sampling: Sampling) -> None:
    temperature, top_k, top_p = sampling.temperature, sampling.top_k, sampling.top_p
    numbers = all(isinstance(value, int | float) for value in (temperature, top_k, top_p))
    if not numbers or not (0 <= temperature < math.inf and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(
            "a policy's sampling must be Python numbers with 0 <= temperature, 0 <= top_k and "
            f"0 < top_p <= 1, got {temperature=}, {top_k=}, {top_p=}"
        )


def _as_is(tree: Any) -> Any:
    return tree


def _take(
    rows: jax.Array,  # [B, T, ...]
    place: jax.Array,  # i32[B, A] outside a row, its nearest end
) -> jax.Array:  # [B, A, ...]
    index = jnp.clip(place, 0, rows.shape[1] - 1)
    index = index.reshape(*index.shape, *(1,) * (rows.ndim - 2))
    return jnp.take_along_axis(rows, index, axis=1)


def _resize(states: jax.Array, size: int) -> jax.Array:  # [B, A, D] -> [B, size, D]
    """Cut, or filled up where the first reading, which decides, has no token."""
    states = states[:, :size]
    return jnp.pad(states, ((0, 0), (0, size - states.shape[1]), (0, 0)))
