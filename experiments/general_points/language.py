"""Where the language model meets the sampler and the losses."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from rlrazor.models.cache import init_cache, repeat_rows
from rlrazor.models.transformer import Transformer, appender
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.runtime.tokenizer import SPECIALS, token_bytes
from rlrazor.sampling.decode import Sampling, Stops, make_stops
from rlrazor.sampling.episodes import Rollout, play
from rlrazor.tasks.general_points.task import GeneralPoints
from rlrazor.types import Params

END = SPECIALS.index("<eos>")  # what ends an answer


def answer_logprobs(
    model: Transformer,
    params: Params,
    tokens: jax.Array,  # i32[B, T]
) -> jax.Array:  # f32[B, T] log pi(token | those before it); 0 for the first, which has none
    """Scores every token of a row but the first."""
    hidden, _ = model.apply(params, tokens)  # type: ignore
    logits = _logits(model, params, hidden[:, :-1])
    return jnp.pad(token_logprobs(logits, tokens[:, 1:]), ((0, 0), (1, 0)))


def group_logprobs(
    model: Transformer,
    params: Params,
    tokens: jax.Array,  # i32[P G, T] G rows of a prompt after each other
    prompt: jax.Array,  # i32[P G] tokens of the prompt, the first ones of a row
    *,
    samples: int,  # G
    prompt_size: int,  # the most that a prompt can have; the rest has at most T less that
) -> jax.Array:  # f32[P G, T] of all behind the prompt; 0 within it
    """`answer_logprobs` of rows that begin with the same prompt, which is read once.

    The gradient is the same, the work that of P prompts instead of P G.
    """
    B, T = tokens.shape
    openings, lengths = tokens[::samples, :prompt_size], prompt[::samples]
    cache = init_cache(model.config, B // samples, T, model.config.compute_dtype)
    read, cache = model.apply(params, openings, cache=cache, count=lengths)  # type: ignore
    last = jnp.take_along_axis(read, (lengths - 1)[:, None, None], axis=1)
    place = prompt[:, None] + jnp.arange(T - prompt_size)[None]
    rest = jnp.take_along_axis(tokens, place, axis=1)
    hidden, _ = model.apply(params, rest, cache=repeat_rows(cache, samples))  # type: ignore
    before = jnp.concatenate([jnp.repeat(last, samples, axis=0), hidden[:, :-1]], axis=1)
    logprobs = token_logprobs(_logits(model, params, before), rest)
    put = jax.vmap(lambda place, found: jnp.zeros(T).at[place].set(found))
    return put(place, logprobs)


def _logits(model: Transformer, params: Params, hidden: jax.Array) -> jax.Array:
    return model.apply(params, hidden, method="logits")  # type: ignore


@dataclasses.dataclass(frozen=True)
class Player:
    """All that playing needs but the weights and the task."""

    model: Transformer
    spelling: tuple[jax.Array, jax.Array]  # bytes of every token
    stops: Stops
    answer_size: int  # tokens a turn
    answer_bytes: int

    def play(
        self,
        params: Params,
        task: Any,
        keys: jax.Array,  # key[P]
        sampling: Sampling,
        *,
        turns: int,
        samples: int = 1,
        answer_keys: jax.Array | None = None,  # key[P] if answers do not follow from `keys`
    ) -> Rollout:
        """Episodes of any task; GeneralPoints says its short words after the first answer."""
        points = isinstance(task, GeneralPoints)
        opening, later = (task.prompt, task.words) if points else (task.observe, task.observe)
        said = [jax.eval_shape(lambda k, f=f: f(task.reset(k)), keys[0]) for f in (opening, later)]
        sizes = [observation.tokens.shape[0] for observation in said]
        slots = sizes[0] + (turns - 1) * sizes[1] + turns * self.answer_size
        dtype = self.model.config.compute_dtype
        return play(
            task,
            appender(self.model, params),
            init_cache(self.model.config, len(keys), slots, dtype),
            keys,
            sampling,
            self.stops,
            self.spelling,
            turns=turns,
            answer_size=self.answer_size,
            answer_bytes=self.answer_bytes,
            opening=opening,
            say=later,
            samples=samples,
            repeat=repeat_rows,
            answer_keys=answer_keys,
        )


def make_player(
    model: Transformer, tokenizer: Tokenizer, *, answer_size: int, answer_bytes: int
) -> Player:
    """A player whose answers end with the end-of-text symbol of a closed vocabulary."""
    table, lengths = token_bytes(tokenizer, size=model.config.vocabulary)
    spelling = jnp.asarray(table), jnp.asarray(lengths)
    return Player(model, spelling, make_stops([[END]]), answer_size, answer_bytes)
