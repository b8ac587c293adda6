"""Exact divergences of a policy from another, token by token and without noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlrazor.policies.policy import Policy, Reading
from rlrazor.sampling.decode import Sampling
from rlrazor.types import Params, Rows

# (log_policy, log_other) f32[B, n, V] each -> f32[B, n]; `ops.kl.kl` is KL(policy || other).
Divergence = Callable[[jax.Array, jax.Array], jax.Array]


def read_constant(policy: Policy, params: Params, rows: Rows) -> Reading:
    """A reading by weights that are not learnt."""
    return policy.read(jax.lax.stop_gradient(params), rows)


def logprobs_and_divergence(
    policy: Policy, mine: Reading, other: Reading, divergence: Divergence
) -> tuple[jax.Array, jax.Array]:  # f32[B, T] log pi(token | prefix), f32[B, T] nats
    """Both from one pass over the vocabulary, of every token under the response mask."""
    _refuse_cuts(policy.sampling)

    def both(log_policy: jax.Array, log_other: jax.Array, tokens: jax.Array):
        said = jnp.take_along_axis(log_policy, tokens[..., None], axis=-1)[..., 0]
        return said, divergence(log_policy, log_other)

    return policy.over_vocabulary(both, mine, other)


def _refuse_cuts(sampling: Sampling) -> None:
    """ValueError where two distributions would lack each other's tokens."""
    temperature, top_k, top_p = sampling.temperature, sampling.top_k, sampling.top_p
    if temperature <= 0 or top_k > 0 or top_p < 1:
        raise ValueError(
            f"the KL between policies that are sampled with {temperature=}, {top_k=} and {top_p=} "
            "is infinite; sample with a positive temperature, top_k=0 and top_p=1, or take a "
            "method that does not compare whole distributions"
        )
