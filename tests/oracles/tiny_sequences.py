"""Every answer of two tokens over three symbols, and exact expectations over all nine of them.

A policy is 12 logits: three for the first token, then three for the second after each first one.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

V, SIZE = 3, 12
ANSWERS = np.array(list(itertools.product(range(V), repeat=2)), np.int32)  # [9, 2]
POLICY, BASE, BEHAVIOUR = np.random.default_rng(7).normal(size=(3, SIZE)).astype(np.float32)
FULL = np.ones((1, 2), bool)


def log_tables(theta) -> jax.Array:  # f32[9, 2, V]: log pi(. | prefix) at both tokens
    first = jax.nn.log_softmax(theta[:V])
    second = jax.nn.log_softmax(theta[V:].reshape(V, V))
    return jnp.stack([jnp.tile(first, (len(ANSWERS), 1)), second[ANSWERS[:, 0]]], axis=1)


def logprobs(theta) -> jax.Array:  # f32[9, 2] of the answers' tokens
    return jnp.take_along_axis(log_tables(theta), jnp.array(ANSWERS)[..., None], axis=-1)[..., 0]


def chances(theta) -> np.ndarray:  # f64[9]
    x = np.float64(theta)
    first, second = log_softmax(x[:V]), log_softmax(x[V:].reshape(V, V), axis=-1)
    return np.exp([first[a] + second[a, b] for a, b in ANSWERS])


def of_every_answer(losses_of_answer):
    """name -> (loss f[9], d loss / d theta f[9, SIZE]) at the policy.

    `losses_of_answer(theta, y)`, y in 0..8, gives a dictionary: many losses, compiled as one.
    """

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def values_and_gradients(theta, y):
        return losses_of_answer(theta, y), jax.jacrev(losses_of_answer)(theta, y)

    values, gradients = values_and_gradients(POLICY, np.arange(len(ANSWERS)))
    return {name: (values[name], gradients[name]) for name in values}


def expected(per_answer, sampler=POLICY) -> np.ndarray:
    """E over answers y ~ sampler."""
    return chances(sampler) @ np.float64(per_answer)


def kl(p_theta, q_theta) -> float:
    """KL(p || q) of whole answers."""
    p, q = chances(p_theta), chances(q_theta)
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))


def kl_per_token(p_theta, q_theta, prefixes) -> float:
    """KL of the first token plus KL of the second, whose prefixes `prefixes` chooses."""
    p, q, chooser = (np.float64(x) for x in (p_theta, q_theta, prefixes))

    def divergence(a, b):
        log_a, log_b = log_softmax(a), log_softmax(b)
        return float(np.sum(np.exp(log_a) * (log_a - log_b)))

    total, chance = divergence(p[:V], q[:V]), np.exp(log_softmax(chooser[:V]))
    for a in range(V):
        after = slice(V + V * a, 2 * V + V * a)
        total += float(chance[a]) * divergence(p[after], q[after])
    return total
