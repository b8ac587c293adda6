"""Causal grouped-query attention with rotary positions, one code for training and decoding."""

import dataclasses
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rlrazor.models.cache import KVCache, write
from rlrazor.models.layers import Linear, RMSNorm
from rlrazor.models.rope import rotate
from rlrazor.models.transformer_config import TransformerConfig


def attend(
    query: jax.Array,  # [B, T, H, Dh]
    key: jax.Array,  # [B, S, K, Dh]
    value: jax.Array,  # [B, S, K, Dh]
    visible: jax.Array,  # bool[B or 1, T, S] at least one in every row
) -> jax.Array:  # [B, T, H, Dh]
    """softmax(q k^T / sqrt(Dh)) v in f32 over the visible keys; the others weigh exactly zero.

    The one place that chooses how attention is computed. Plain products: for bf16,
    `jax.nn.dot_product_attention` asks for an algorithm that XLA's CPU backend has for some shapes
    only, and in f32 it is the slower of the two there. Key head k serves the query heads
    k*H/K .. (k+1)*H/K - 1, which are treated as more queries of one head.
    """
    B, T, H, Dh = query.shape
    S, K = key.shape[1:3]
    G = H // K  # query heads of a key head
    chex.assert_shape([key, value], (B, S, K, Dh))
    chex.assert_shape(visible, (None, T, S))
    query = query.reshape(B, T, K, G, Dh).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, Dh)
    key, value = (x.astype(query.dtype).swapaxes(1, 2) for x in (key, value))
    scores = jnp.einsum("bkqd,bksd->bkqs", query, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(B, K, G, T, S) / math.sqrt(Dh)
    scores = jnp.where(visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores).astype(query.dtype).reshape(B, K, G * T, S)
    mixed = jnp.einsum("bkqs,bksd->bkqd", weights, value).reshape(B, K, G, T, Dh)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(B, T, H, Dh)


class Attention(nn.Module):
    """Project, rotate, attend, project back; keys and values are kept where there is a cache."""

    config: TransformerConfig

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
        if cache is not None:
            keys = write(cache.keys, key, layer, slots)
            values = write(cache.values, value, layer, slots)
            cache = dataclasses.replace(cache, keys=keys, values=values)
            key, value = (kept[layer].swapaxes(1, 2) for kept in (keys, values))
        mixed = attend(query, key, value, visible).reshape(B, T, c.heads * c.head_dim)
        return Linear(c, c.width, scale=1 / (2 * c.layers), name="output")(mixed), cache
