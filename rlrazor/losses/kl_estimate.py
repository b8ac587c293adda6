"""KL(pi || pi_0) as a loss where only the sampled token's log-probabilities are known.

With d = log pi - log pi_0 of a token y ~ pi, the expected gradient of each choice, token by token
(the prefix held fixed; grad KL = E[d grad log pi]):

| choice | expected gradient |
|---|---|
| k1 = d as a loss | E[grad log pi] = 0: not offered |
| k1 in the reward (`ops.kl_estimators.kl_in_reward`) | grad KL(pi || pi_0) of the whole answer |
| `kl_k2`: d^2 / 2 | grad KL(pi || pi_0) |
| `kl_k3`: exp(-d) - 1 + d | grad KL(pi_0 || pi), another divergence |
| `kl_k3_weighted`: pi / pi_behaviour times k3 | grad KL(pi || pi_0), off-policy too |
| `losses.kl_penalty` (policy, base), all of V | grad KL(pi || pi_0), without noise |

All but the second leave out what a token does to the divergence of later ones; for `kl_k2` [B, 1]
arrays of log pi(y) put that back. The penalties are to be multiplied by a coefficient, added, and
aggregated as the policy's own loss is. (Tang & Munos, arXiv 2506.09477; arXiv 2510.01555.)
"""

import chex
import jax
import jax.numpy as jnp

from rlrazor.ops import kl_estimators
from rlrazor.ops.aggregate import Aggregate
from rlrazor.ops.ratios import token_ratios
from rlrazor.types import Metrics


def kl_k2(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix) of the policy's own samples
    base_logprobs: jax.Array,  # f32[B, T] log pi_0 of the same tokens; constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
    *,
    aggregate: Aggregate,
) -> tuple[jax.Array, Metrics]:
    """(log pi - log pi_0)^2 / 2: the right gradient of KL(pi || pi_0), at fresh samples."""
    logprobs, base_logprobs = _kept(mask, logprobs, base_logprobs)
    loss = aggregate(kl_estimators.k2(logprobs, base_logprobs), mask)
    return loss, _metrics(logprobs, base_logprobs, mask)


def kl_k3(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix) of the policy's own samples
    base_logprobs: jax.Array,  # f32[B, T] log pi_0 of the same tokens; constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
    *,
    aggregate: Aggregate,
) -> tuple[jax.Array, Metrics]:
    """pi_0/pi - 1 - log pi_0/pi, the penalty of GRPO as published (arXiv 2402.03300, equation 4).

    Known bias: its value estimates KL(pi || pi_0), its gradient is that of KL(pi_0 || pi), since
    E[grad k3] = -E[(pi_0/pi) grad log pi]. Near the base the two agree to first order; far from it
    this one punishes forgetting a token of the base without bound, and a new token hardly. Here to
    reproduce what others ran.
    """
    logprobs, base_logprobs = _kept(mask, logprobs, base_logprobs)
    loss = aggregate(kl_estimators.k3(logprobs, base_logprobs), mask)
    return loss, _metrics(logprobs, base_logprobs, mask)


def kl_k3_weighted(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix)
    behaviour_logprobs: jax.Array,  # f32[B, T] of the distribution actually sampled; constants
    base_logprobs: jax.Array,  # f32[B, T] log pi_0; constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
    *,
    aggregate: Aggregate,
) -> tuple[jax.Array, Metrics]:
    """(pi / pi_behaviour) k3, as in DeepSeek-V3.2; the ratio is differentiated too.

    Its expectation over the behaviour's tokens is KL(pi || pi_0) as a function of pi, so value and
    gradient are both right, on-policy and off (of the prefixes that the behaviour visits).
    """
    chex.assert_type(behaviour_logprobs, jnp.float32)
    logprobs, base_logprobs = _kept(mask, logprobs, base_logprobs)
    ratio = token_ratios(logprobs, behaviour_logprobs, mask)
    loss = aggregate(ratio * kl_estimators.k3(logprobs, base_logprobs), mask)
    return loss, _metrics(logprobs, base_logprobs, mask)


def _kept(mask, logprobs, base_logprobs):
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, base_logprobs, mask])
    chex.assert_type([logprobs, base_logprobs, mask], [jnp.float32, jnp.float32, bool])
    base_logprobs = jax.lax.stop_gradient(base_logprobs)
    return jnp.where(mask, logprobs, 0.0), jnp.where(mask, base_logprobs, 0.0)


def _metrics(logprobs, base_logprobs, mask) -> Metrics:
    """`kl_nats`, the sum of k1 over `tokens`, is unbiased at fresh samples whatever the loss is."""
    return {"tokens": jnp.sum(mask), "kl_nats": jnp.sum(kl_estimators.k1(logprobs, base_logprobs))}
