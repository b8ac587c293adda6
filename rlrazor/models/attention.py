"""Causal grouped-query attention with rotary positions, one code for training and decoding."""

import dataclasses

import flax.linen as nn
import jax

from rlrazor.models.attend import attend, causal_kernel
from rlrazor.models.cache import KVCache, write
from rlrazor.models.layers import Linear, RMSNorm
from rlrazor.models.rope import rotate
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.types import Layout


class Attention(nn.Module):
    """Project, rotate, attend, project back; keys and values are kept where there is a cache."""

    config: TransformerConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        cache: KVCache | None,
        layer: jax.Array,  # i32[] whose keys these are in the cache
        slots: jax.Array,  # i32[B or 1, T] positions of the tokens, and where they are kept
        rotation: tuple[jax.Array, jax.Array],  # f32[B or 1, T, Dh/2]
        visible: jax.Array,  # bool[B or 1, T, S]
    ) -> tuple[jax.Array, KVCache | None]:  # [B, T, D]
        c = self.config
        B, T, _ = x.shape

        def heads(name, count):
            project = Linear(c, count * c.head_dim, bias=c.qkv_bias, name=name)
            return project(x).reshape(B, T, count, c.head_dim)

        query, key = heads("query", c.heads), heads("key", c.kv_heads)
        value = heads("value", c.kv_heads)
        if c.qk_norm:
            query = RMSNorm(c, name="query_norm")(query)
            key = RMSNorm(c, name="key_norm")(key)
        query, key = rotate(query, rotation), rotate(key, rotation)
        kernel = causal_kernel(c.attention, self.layout, query.dtype) if cache is None else None
        if cache is not None:
            keys = write(cache.keys, key, layer, slots)
            values = write(cache.values, value, layer, slots)
            cache = dataclasses.replace(cache, keys=keys, values=values)
            key, value = (kept[layer].swapaxes(1, 2) for kept in (keys, values))
        mixed = kernel(query, key, value) if kernel else attend(query, key, value, visible)
        mixed = mixed.reshape(B, T, c.heads * c.head_dim)
        return Linear(c, c.width, scale=1 / (2 * c.layers), name="output")(mixed), cache
