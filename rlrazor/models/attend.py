"""Attention over whole rows, and the one place that chooses how it is computed."""

import functools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from rlrazor.models.partition import HEADS
from rlrazor.models.transformer_config import Attending
from rlrazor.types import Layout

LANES, BLOCK = 128, 512  # a TPU's vector; the most queries and keys that splash takes at once


def attend(
    query: jax.Array,  # [B, T, H, Dh]
    key: jax.Array,  # [B, S, K, Dh]
    value: jax.Array,  # [B, S, K, Dh]
    visible: jax.Array,  # bool[B or 1, T, S] at least one in every row
) -> jax.Array:  # [B, T, H, Dh]
    """softmax(q k^T / sqrt(Dh)) v in f32 over the visible keys; the others weigh exactly zero.

    Plain products, for any mask and any device. For bf16, `jax.nn.dot_product_attention` asks for
    an algorithm that XLA's CPU backend has for some shapes only, and in f32 it is the slower of the
    two there. Key head k serves the query heads k*H/K .. (k+1)*H/K - 1, which are treated as more
    queries of one head.
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


def resolve(how: Attending, platform: str, dtype: jax.typing.DTypeLike) -> Attending:
    """ "auto" is "splash" on a TPU, "dot_product" on a GPU in bf16 and "einsum" elsewhere."""
    if how != "auto":
        return how
    flash = platform == "gpu" and dtype == jnp.bfloat16
    return "splash" if platform == "tpu" else "dot_product" if flash else "einsum"


def causal_kernel(
    how: Attending, layout: Layout | None, dtype: jax.typing.DTypeLike
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None:
    """How rows attend to themselves without T x T scores in memory; None for `attend`.

    A function of query, key and value as `attend` has them, every token seeing itself and what came
    before it.
    """
    platform = layout.platform if layout else jax.default_backend()
    how = resolve(how, platform, dtype)
    if how == "einsum":
        return None
    kernel = functools.partial(_splash if how == "splash" else _dot_product, platform)
    # The compiler does not know how to cut a kernel.
    return layout.on_parts(kernel, (HEADS, HEADS, HEADS), HEADS) if layout else kernel


def _dot_product(platform: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """cuDNN's flash attention where it can be had."""
    flash = platform == "gpu" and query.dtype == jnp.bfloat16
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=True, implementation="cudnn" if flash else "xla"
    )


def _splash(platform: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """JAX's Pallas kernel for the TPU; elsewhere it is interpreted, for tests.

    Rows are padded to whole blocks, which no query before them sees.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    T, H, Dh = query.shape[1:]
    block = min(BLOCK, -(-T // LANES) * LANES)
    padding = -T % block
    mask = splash.MultiHeadMask([splash.CausalMask((T + padding, T + padding))] * H)
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    kernel = splash.make_splash_mha_single_device(
        mask,
        block_sizes=splash.BlockSizes(**dict.fromkeys(names, block)),
        interpret=platform != "tpu",
    )
    query = query * jnp.asarray(1 / math.sqrt(Dh), query.dtype)  # the kernel does not scale
    by_head = (
        jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))).swapaxes(1, 2)
        for x in (query, key, value)
    )
    mixed: jax.Array = jax.vmap(kernel)(*by_head)  # pyright: ignore[reportAssignmentType]
    return mixed.swapaxes(1, 2)[:, :T]
