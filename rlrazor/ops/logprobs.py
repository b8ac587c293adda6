"""Log-probabilities of chosen tokens."""

import chex
import jax
import jax.numpy as jnp


def token_logprobs(
    logits: jax.Array,  # f32 or bf16 [..., V]; -inf forbids a token
    tokens: jax.Array,  # i32[...]
) -> jax.Array:  # f32[...] nats
    """log softmax(logits)[token], in float32 whatever the logits are.

    NaN where there is no answer: a token outside [0, V), or a row with NaN, +inf or nothing but
    -inf. Such a position passes back a zero gradient, so that padding which holds garbage is
    harmless once a loss masks it, while an unmasked one still shows as a NaN loss.
    """
    chex.assert_type(tokens, int)
    chex.assert_shape(logits, (*tokens.shape, None))
    V = logits.shape[-1]
    logits = logits.astype(jnp.float32)
    # The largest logit is NaN if any is, and infinite exactly when softmax is undefined.
    defined = jnp.isfinite(jnp.max(logits, axis=-1)) & (tokens >= 0) & (tokens < V)
    log_probs = jax.nn.log_softmax(jnp.where(defined[..., None], logits, 0.0))
    index = jnp.where(defined, tokens, 0)[..., None]
    chosen = jnp.take_along_axis(log_probs, index, axis=-1)[..., 0]
    return jnp.where(defined, chosen, jnp.nan)
