"""Learning from a teacher's distributions on the policy's own answers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.losses.on_policy_distillation import on_policy_distillation as distillation_loss
from rlrazor.methods.divergence import logprobs_and_divergence, read_constant
from rlrazor.methods.imitation import logprobs_of
from rlrazor.methods.method import Reads, given
from rlrazor.ops.aggregate import token_mean
from rlrazor.ops.kl import kl
from rlrazor.policies.policy import Policy
from rlrazor.types import Metrics, Params, Rows


def on_policy_distillation(
    policy: Policy, params: Params, reads: Reads, rows: Rows
) -> tuple[jax.Array, Metrics]:
    """`losses.on_policy_distillation`: a finished run grades every token."""
    teacher = given(rows.teacher_logprobs, "rows.teacher_logprobs")
    logprobs = logprobs_of(policy, params, rows)
    return distillation_loss(logprobs, teacher, rows.mask, aggregate=token_mean)


def with_teacher_logprobs(
    policy: Policy, params: Params, reads: Reads, rows: Rows, **_: Any
) -> Rows:
    teacher = given(reads.teacher, "reads.teacher")
    return dataclasses.replace(rows, teacher_logprobs=logprobs_of(policy, teacher, rows))


def sdft(policy: Policy, params: Params, reads: Reads, rows: Rows) -> tuple[jax.Array, Metrics]:
    """`losses.sdft`, some tokens at a time: the teacher is the policy's moving average, which reads
    the same answers behind a demonstration."""
    demonstrated = given(rows.demonstrated, "rows.demonstrated")
    teacher = read_constant(policy, given(reads.average, "reads.average"), demonstrated)
    _, divergence = logprobs_and_divergence(policy, policy.read(params, rows), teacher, kl)
    nats = jnp.sum(jnp.where(rows.mask, divergence, 0.0))
    return token_mean(divergence, rows.mask), {"tokens": jnp.sum(rows.mask), "kl_nats": nats}
