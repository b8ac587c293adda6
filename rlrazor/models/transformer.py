"""Decoder-only language model: the policy of the language runs, small or Qwen or Llama 3."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rlrazor.models.attention import Attention
from rlrazor.models.cache import KVCache
from rlrazor.models.layers import GatedMLP, RMSNorm, matmul
from rlrazor.models.partition import EMBEDDED, RESIDUAL, TABLE, TOKENS_BY_COLUMN
from rlrazor.models.rope import rope_frequencies, rotations
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.types import Layout, Params

EMBEDDING_STD = 0.02  # small, so that a new model's logits are near zero and its loss near log V


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), in the form that a scan over layers wants.

    The cache of all layers travels along, so that the compiler can update it in place.
    """

    config: TransformerConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(
        self,
        carry: tuple[jax.Array, KVCache | None],  # [B, T, D] and the cache
        layer: jax.Array,  # i32[]
        slots: jax.Array,  # i32[B or 1, T]
        rotation: tuple[jax.Array, jax.Array],  # f32[B or 1, T, Dh/2]
        visible: jax.Array,  # bool[B or 1, T, S]
    ) -> tuple[tuple[jax.Array, KVCache | None], None]:
        c = self.config
        x, cache = carry
        normed = RMSNorm(c, name="attention_norm")(x)
        mixed, cache = Attention(c, self.layout, name="attention")(
            normed, cache, layer, slots, rotation, visible
        )
        x = x + mixed
        x = x + GatedMLP(c, name="mlp")(RMSNorm(c, name="mlp_norm")(x))
        return (_as_rows(x, self.layout), cache), None


def _as_rows(x: jax.Array, layout: Layout | None) -> jax.Array:  # [B, T, D]
    """Rows stay where they are; else the compiler may move them instead of the parameters."""
    return layout.constrain(x, RESIDUAL) if layout else x


def _look_up(
    config: TransformerConfig, part: jax.Array, tokens: jax.Array
) -> jax.Array:  # [V / tensor, D / fsdp], i32[B, T] -> [B, T, D / fsdp]
    place = tokens - jax.lax.axis_index("tensor") * len(part)
    here = (place >= 0) & (place < len(part))
    found = jnp.take(part, jnp.where(here, place, 0), axis=0).astype(config.compute_dtype)
    found = jax.lax.psum(jnp.where(here[..., None], found, jnp.zeros_like(found)), "tensor")
    known = (tokens >= 0) & (tokens < config.vocabulary)
    return jnp.where(known[..., None], found, jnp.nan)


class Embedding(nn.Module):
    """Table [V, D]: tokens to vectors (NaN for one not in it) and, for a tied head, back."""

    config: TransformerConfig

    def setup(self):
        c = self.config
        init, shape = nn.initializers.normal(EMBEDDING_STD), (c.vocabulary, c.width)
        self.embedding = self.param("embedding", init, shape, c.param_dtype)

    def __call__(
        self, tokens: jax.Array, layout: Layout | None = None
    ) -> jax.Array:  # i32[B, T] -> [B, T, D]
        c = self.config
        if layout is None:
            return jnp.take(self.embedding, tokens, axis=0).astype(c.compute_dtype)
        # Each device looks in the rows and columns that it has: vectors travel, and no table.
        look_up = functools.partial(_look_up, c)
        look_up = layout.on_parts(look_up, (TABLE, TOKENS_BY_COLUMN), EMBEDDED)
        return look_up(self.embedding, tokens)

    def logits(self, hidden: jax.Array) -> jax.Array:  # [..., D] -> f32[..., V]
        table = self.embedding.astype(hidden.dtype)
        return matmul(hidden, table.T, jnp.float32)


class Head(nn.Module):
    """Matrix [D, V] from hidden states to logits, accumulated in f32."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:  # [..., D] -> f32[..., V]
        c = self.config
        init, shape = nn.initializers.normal(EMBEDDING_STD), (c.width, c.vocabulary)
        kernel = self.param("kernel", init, shape, c.param_dtype).astype(hidden.dtype)
        return matmul(hidden, kernel, jnp.float32)


class Transformer(nn.Module):
    """Tokens to hidden states by `apply(params, tokens, cache=..., count=...)`.

    `apply(params, hidden, method="logits")` goes on to the vocabulary: apart, so that the caller
    can score a large one in chunks of tokens, or only the last token. Parameters are the same tree
    whether layers are scanned or not: those of the layers are stacked, [L, ...]. `layout` is told
    where devices share the work; parameters that lie by `partition.transformer_rules` go with it.
    """

    config: TransformerConfig
    layout: Layout | None = None

    def setup(self):
        c = self.config
        # Unrolled layers lie side by side, where the compiler would merge the recomputation with
        # the original unless told not to; in a loop it cannot.
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        layer = Layer
        if c.remat != "none":
            keep = policy if c.remat == "dots" else None
            layer = nn.remat(Layer, prevent_cse=not c.scan_layers, policy=keep)
        in_axes = (0, nn.broadcast, nn.broadcast, nn.broadcast)
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=in_axes,  # pyright: ignore[reportArgumentType]  # linen allows a tuple
            length=c.layers,
            unroll=1 if c.scan_layers else c.layers,
        )(c, self.layout)
        self.embed = Embedding(c)
        self.final_norm = RMSNorm(c)
        if not c.tied_head:
            self.head = Head(c)

    def __call__(
        self,
        tokens: jax.Array,  # i32[B, T]
        *,
        cache: KVCache | None = None,
        count: jax.Array | None = None,  # i32[B] tokens of a row that are real, the first ones
    ) -> tuple[jax.Array, KVCache | None]:  # [B, T, D] after the final norm
        """Hidden states of the tokens, each seeing itself and what came before it.

        Without a cache, rows begin at position 0 and may be padded on the right. With one, row b
        continues at position `filled[b]`, and its first `count[b]` tokens are kept. Without
        `count`, all are real. Hidden states of the others mean nothing, but are finite: their
        embedding is replaced by zero, so that nothing in them reaches anything else.
        """
        T = tokens.shape[1]
        filled = None if cache is None else cache.filled
        x, seen = self.begin(tokens, filled, T if cache is None else cache.slots, count)
        (x, cache), _ = self.layers((x, cache), jnp.arange(self.config.layers), *seen)
        if cache is not None:
            cache = dataclasses.replace(
                cache, filled=cache.filled + (T if count is None else count)
            )
        hidden = self.final_norm(x)
        if self.is_initializing():
            self.logits(hidden)  # linen makes a module's parameters when it is first called
        return hidden, cache

    def begin(
        self,
        tokens: jax.Array,  # i32[B, T]
        filled: jax.Array | None,  # i32[B] tokens that are in a cache; None: no cache
        size: int,  # S, keys that there are to see
        count: jax.Array | None,  # i32[B]
    ) -> tuple[jax.Array, Any]:  # [B, T, D], and what every `Layer` takes besides
        """What comes before the layers."""
        c = self.config
        B, T = tokens.shape
        chex.assert_type(tokens, int)
        # Decoding has whole rows of the table, which the compiler deals with.
        x = self.embed(tokens, self.layout if filled is None else None)
        x = _as_rows(x, self.layout)
        if count is not None:
            chex.assert_shape(count, (B,))
            real = jnp.arange(T)[None] < count[:, None]
            x = jnp.where(real[..., None], x, jnp.zeros_like(x))
        start = jnp.zeros((1,), jnp.int32) if filled is None else filled
        slots = start[:, None] + jnp.arange(T)[None]
        visible = jnp.arange(size)[None, None] <= slots[..., None]
        frequencies = rope_frequencies(c.head_dim, base=c.rope_base, scaling=c.rope_scaling)
        return x, (slots, rotations(slots, frequencies), visible)

    def end(self, x: jax.Array) -> jax.Array:  # [..., D]
        """What comes behind them: hidden states."""
        return self.final_norm(x)

    def logits(self, hidden: jax.Array) -> jax.Array:  # [..., D] -> f32[..., V]
        """Unnormalised log-probabilities of the next token."""
        return self.embed.logits(hidden) if self.config.tied_head else self.head(hidden)


def appender(
    model: Transformer, params: Params
) -> Callable[[KVCache, jax.Array, jax.Array], tuple[jax.Array, KVCache]]:
    """The model as decoding wants it: tokens into the cache, logits behind the last one out."""

    def append(
        cache: KVCache,
        tokens: jax.Array,  # i32[B, T]
        count: jax.Array,  # i32[B] tokens of a row that are real, the first ones
    ) -> tuple[jax.Array, KVCache]:  # f32[B, V]
        hidden, cache = model.apply(params, tokens, cache=cache, count=count)  # type: ignore
        last = jnp.maximum(count - 1, 0)[:, None, None]
        newest = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
        return model.apply(params, newest, method="logits"), cache  # type: ignore

    return append
