"""On-policy distillation: the teacher grades every token of the policy's own answers."""

import chex
import jax
import jax.numpy as jnp

from rlrazor.losses.kl_penalty import kl_penalty
from rlrazor.ops.aggregate import Aggregate
from rlrazor.types import Metrics


def on_policy_distillation(
    logprobs: jax.Array,  # f32[B, T] log pi(token | prefix) of the policy's own samples
    teacher_logprobs: jax.Array,  # f32[B, T] log pi_teacher of the same tokens; constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
    *,
    aggregate: Aggregate,
) -> tuple[jax.Array, Metrics]:
    """-A_t log pi(y_t) with A_t = -sg(log pi(y_t) - log pi_teacher(y_t)).

    In expectation the gradient of `exact_on_policy_distillation`: each token answers for its own
    KL(pi || teacher), with what precedes it held fixed, and not for where it leads (discount 0).
    A token that the teacher rules out (log pi_teacher = -inf) makes the loss infinite: clip the
    teacher first. The value is a surrogate; the metric `kl_nats`, the sum of -A_t over `tokens`,
    estimates KL(pi || teacher).
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, teacher_logprobs, mask])
    chex.assert_type([logprobs, teacher_logprobs, mask], [jnp.float32, jnp.float32, bool])
    logprobs, teacher_logprobs = (
        jnp.where(mask, x, 0.0) for x in (logprobs, jax.lax.stop_gradient(teacher_logprobs))
    )
    A = -jax.lax.stop_gradient(logprobs - teacher_logprobs)
    return -aggregate(A * logprobs, mask), {"tokens": jnp.sum(mask), "kl_nats": -jnp.sum(A)}


def exact_on_policy_distillation(
    log_policy: jax.Array,  # f32[B, T, V] log pi(. | prefix of the policy's own samples)
    log_teacher: jax.Array,  # f32[B, T, V] constants
    mask: jax.Array,  # bool[B, T] tokens the policy chose
) -> tuple[jax.Array, Metrics]:
    """KL(pi || teacher) over the whole vocabulary, averaged over the kept tokens.

    The same without the noise of the token that happened to be drawn.
    """
    return kl_penalty(log_policy, jax.lax.stop_gradient(log_teacher), mask)
