"""KL(p || q) per token from samples of p, where the whole vocabulary is not at hand.

Each takes log p and log q of the sampled token; the order of the arguments is the direction, and
the samples must come from the first. For KL(pi || pi_0) sample the policy and pass (policy, base);
for KL(pi_0 || pi), the abscissa of the forgetting law, sample the base and pass (base, policy).
With d = log p - log q (Schulman, "Approximating KL divergence", 2020):

| estimator | equation | as a value |
|---|---|---|
| `k1` | d | unbiased, of either sign, noisy |
| `k2` | d^2 / 2 | biased by O(d^3), >= 0 |
| `k3` | exp(-d) - 1 + d | unbiased, >= 0, quiet where p is near q, heavy-tailed far from it |

k3 is unbiased only where q puts no mass outside p. A good value need not have a good gradient:
`losses/kl_estimate.py` says which is which.
"""

import chex
import jax
import jax.numpy as jnp


def k1(
    log_p: jax.Array,  # f32[...] nats, of tokens sampled from p
    log_q: jax.Array,  # f32[...]
) -> jax.Array:  # f32[...]
    """log p - log q."""
    chex.assert_equal_shape([log_p, log_q])
    return log_p - log_q


def k2(
    log_p: jax.Array,  # f32[...] nats, of tokens sampled from p
    log_q: jax.Array,  # f32[...]
) -> jax.Array:  # f32[...]
    """(log p - log q)^2 / 2."""
    return 0.5 * jnp.square(k1(log_p, log_q))


def k3(
    log_p: jax.Array,  # f32[...] nats, of tokens sampled from p
    log_q: jax.Array,  # f32[...]
) -> jax.Array:  # f32[...]
    """q / p - 1 - log(q / p)."""
    # expm1 keeps the digits that the subtraction of 1 would lose where p is near q.
    return jnp.expm1(k1(log_q, log_p)) - k1(log_q, log_p)


def kl_in_reward(
    rewards: jax.Array,  # f32[B]
    behaviour_logprobs: jax.Array,  # f32[B, T] of the policy that sampled
    base_logprobs: jax.Array,  # f32[B, T]
    mask: jax.Array,  # bool[B, T] tokens the policy chose
    *,
    coefficient: float | jax.Array,  # reward per nat
) -> jax.Array:  # f32[B] constants
    """r - coefficient * sum_t k1_t: the policy gradient of it has that of KL(pi || pi_0) inside.

    Summed over the sequence, it is exact: a token also answers for the divergence that it leads to.
    """
    (B,) = rewards.shape
    chex.assert_shape([behaviour_logprobs, base_logprobs, mask], (B, None))
    kept = (jnp.where(mask, x, 0.0) for x in (behaviour_logprobs, base_logprobs))
    penalty = jnp.sum(k1(*kept), axis=-1)
    return jax.lax.stop_gradient(rewards - coefficient * penalty)
