"""Decoding layer by layer: each has weights and a cache of its own.

Taken from stacked ones, they would be copied at every token; on a CPU that is a sixth of the time.
It costs compiling every layer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.models.cache import KVCache, init_cache, repeat_rows
from rlrazor.models.transformer import Layer, Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.types import Params

Caches = tuple[KVCache, ...]  # L of one layer each


def init_caches(
    config: TransformerConfig, rows: int, slots: int, dtype: jax.typing.DTypeLike
) -> Caches:
    """As `init_cache`, with the layers apart."""
    one = dataclasses.replace(config, layers=1)
    return tuple(init_cache(one, rows, slots, dtype) for _ in range(config.layers))


def repeat_caches(caches: Caches, times: int) -> Caches:
    """Every row `times` times in a row."""
    return tuple(repeat_rows(cache, times) for cache in caches)


def layers_appender(
    model: Transformer, params: Params
) -> Callable[[Caches, jax.Array, jax.Array], tuple[jax.Array, Caches]]:
    """As `transformer.appender`, with the layers apart."""
    layer = Layer(model.config, model.layout)

    def of_layer(number: int) -> Params:
        """Its parameters, and its adapters where there are any."""
        stacks = {name: tree["layers"] for name, tree in params.items() if tree.get("layers", {})}
        return jax.tree.map(lambda leaf: leaf[number], stacks)

    of_layers = [of_layer(number) for number in range(model.config.layers)]

    def append(
        caches: Caches,
        tokens: jax.Array,  # i32[B, T]
        count: jax.Array,  # i32[B] tokens of a row that are real, the first ones
    ) -> tuple[jax.Array, Caches]:  # f32[B, V]
        filled, slots = caches[0].filled, caches[0].slots
        x, seen = model.apply(params, tokens, filled, slots, count, method="begin")  # type: ignore
        after = []
        for own, cache in zip(of_layers, caches, strict=True):
            carry: Any = layer.apply(own, (x, cache), 0, *seen)[0]
            x, cache = carry
            after.append(dataclasses.replace(cache, filled=cache.filled + count))
        last = jnp.maximum(count - 1, 0)[:, None, None]
        newest = jnp.take_along_axis(x, last, axis=1)[:, 0]
        hidden = model.apply(params, newest, method="end")
        return model.apply(params, hidden, method="logits"), tuple(after)  # type: ignore

    return append
