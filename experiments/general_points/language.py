"""Where the language model meets the sampler and the losses."""

from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.models.transformer import Transformer
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.sampling.decode import Append
from rlrazor.types import Params


def appender(model: Transformer, params: Params) -> Append:
    """The model as decoding wants it: tokens into the cache, logits behind the last one out."""

    def append(cache: Any, tokens: jax.Array, count: jax.Array) -> tuple[jax.Array, Any]:
        hidden, cache = model.apply(params, tokens, cache=cache, count=count)  # type: ignore
        last = jnp.maximum(count - 1, 0)[:, None, None]
        newest = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
        return _logits(model, params, newest), cache

    return append


def answer_logprobs(
    model: Transformer,
    params: Params,
    tokens: jax.Array,  # i32[B, T]
) -> jax.Array:  # f32[B, T] log pi(token | those before it); 0 for the first, which has none
    """Scores every token of a row but the first."""
    hidden, _ = model.apply(params, tokens)  # type: ignore
    logits = _logits(model, params, hidden[:, :-1])
    return jnp.pad(token_logprobs(logits, tokens[:, 1:]), ((0, 0), (1, 0)))


def _logits(model: Transformer, params: Params, hidden: jax.Array) -> jax.Array:
    return model.apply(params, hidden, method="logits")  # type: ignore
