"""The distribution that is really sampled: temperature, then the k likeliest, then a nucleus."""

import chex
import jax
import jax.numpy as jnp


def sampled_logprobs(
    logits: jax.Array,  # f32[V]
    *,
    temperature: jax.Array | float,  # f32[] 0 is greedy: all mass on the largest logit
    top_k: jax.Array | int,  # i32[] keep the k likeliest tokens; 0 keeps all
    top_p: jax.Array | float,  # f32[] then the fewest likeliest whose mass reaches p; 1 keeps all
) -> jax.Array:  # f32[V] -inf where never sampled
    """Log-probabilities of the next token as sampled, renormalised over what is kept.

    Ties at a boundary are kept. The nucleus (Holtzman et al., arXiv 1904.09751) always holds the
    likeliest token.
    """
    chex.assert_rank(logits, 1)
    (V,) = logits.shape
    logits = logits.astype(jnp.float32)
    greedy = jnp.asarray(temperature) <= 0
    scaled = logits / jnp.where(greedy, 1.0, temperature)
    # Sorting costs more than all the rest, so it is done only where something may be cut off.
    everything = (jnp.asarray(top_k) <= 0) & (jnp.asarray(top_p) >= 1)
    kept = jax.lax.cond(
        everything,
        lambda: jnp.ones(V, bool),
        lambda: _kept(scaled, jnp.where(greedy, 1, top_k), top_p),
    )
    # Greedy ties go to the first, so that greedy decoding is a function of the logits.
    kept = jnp.where(greedy, jnp.arange(V) == jnp.argmax(logits), kept)
    return jax.nn.log_softmax(jnp.where(kept, scaled, -jnp.inf))


def logits_as_sampled(
    logits: jax.Array,  # f32[..., V]
    tokens: jax.Array | None = None,  # i32[...] never cut; None: no exception
    *,
    temperature: float,
    top_k: int,
    top_p: float,
) -> jax.Array:  # f32[..., V] whose softmax is `sampled_logprobs`; -inf where never sampled
    """For scoring what was sampled: settings are static, so that nothing is sorted without need.

    A token that was sampled and would be no longer is scored as one that is kept: a ratio of
    probabilities stays finite, and its gradient goes on.
    """
    V = logits.shape[-1]
    scaled = logits / temperature if temperature > 0 and temperature != 1 else logits
    if temperature > 0 and top_k <= 0 and top_p >= 1:
        return scaled
    places = jnp.expand_dims(jnp.arange(V), range(logits.ndim - 1))
    fixed = jax.lax.stop_gradient(scaled)
    if temperature > 0:
        cut = jnp.vectorize(lambda row: _kept(row, jnp.int32(top_k), top_p), signature="(v)->(v)")
        kept = cut(fixed)
    else:
        kept = places == jnp.argmax(fixed, axis=-1, keepdims=True)
    if tokens is not None:
        kept |= places == tokens[..., None]
    return jnp.where(kept, scaled, -jnp.inf)


def _kept(
    scaled: jax.Array,  # f32[V]
    top_k: jax.Array,  # i32[]
    top_p: jax.Array | float,  # f32[]
) -> jax.Array:  # bool[V]
    (V,) = scaled.shape
    ordered = -jnp.sort(-scaled)
    k = jnp.asarray(top_k, jnp.int32)
    k = jnp.where(k <= 0, V, jnp.minimum(k, V))
    smallest = ordered[k - 1]
    mass = jax.nn.softmax(jnp.where(jnp.arange(V) < k, ordered, -jnp.inf))
    before = jnp.cumsum(mass) - mass
    # The last token of the nucleus is the last before which the mass is still below p. Rounding
    # must not cut a tail off when all is to be kept.
    inside = (before < top_p) | (jnp.asarray(top_p) >= 1)
    nucleus = jnp.min(jnp.where(inside & (jnp.arange(V) < k), ordered, jnp.inf))
    return (scaled >= smallest) & (scaled >= nucleus)
