"""Learning from given answers: likelihood and its relatives, and preferences."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.losses.dft import dft as dft_loss
from rlrazor.losses.dpo import dpo as dpo_loss
from rlrazor.losses.nll import nll as nll_loss
from rlrazor.losses.psft import psft as psft_loss
from rlrazor.losses.simpo import simpo as simpo_loss
from rlrazor.losses.weighted_nll import entropy_gates, tempered_weights, weighted_nll
from rlrazor.methods.divergence import logprobs_and_divergence, read_constant
from rlrazor.methods.method import Reads, given
from rlrazor.ops.kl import kl
from rlrazor.ops.masked import masked_mean
from rlrazor.policies.policy import Policy
from rlrazor.types import Metrics, Params, Rows


def nll(policy: Policy, params: Params, reads: Reads, rows: Rows) -> tuple[jax.Array, Metrics]:
    """`losses.nll`: SFT, whoever gave the answers."""
    return nll_loss(logprobs_of(policy, params, rows), rows.mask)


def dft(policy: Policy, params: Params, reads: Reads, rows: Rows) -> tuple[jax.Array, Metrics]:
    """`losses.dft`."""
    return dft_loss(logprobs_of(policy, params, rows), rows.mask)


def psft(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, clip_high: float
) -> tuple[jax.Array, Metrics]:
    """`losses.psft`: its previous policy is that of the iteration's beginning."""
    previous = given(rows.old_logprobs, "rows.old_logprobs")
    return psft_loss(logprobs_of(policy, params, rows), previous, rows.mask, clip_high=clip_high)


def with_old_logprobs(policy: Policy, params: Params, reads: Reads, rows: Rows, **_: Any) -> Rows:
    return dataclasses.replace(rows, old_logprobs=logprobs_of(policy, params, rows))


def eaft(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, most_likely: int
) -> tuple[jax.Array, Metrics]:
    """`losses.weighted_nll` with `entropy_gates`, those of the policy as it is."""

    def both(log_policy: jax.Array, tokens: jax.Array):
        said = jnp.take_along_axis(log_policy, tokens[..., None], axis=-1)[..., 0]
        return said, entropy_gates(log_policy, most_likely=most_likely)

    logprobs, gates = policy.over_vocabulary(both, policy.read(params, rows))
    return weighted_nll(logprobs, gates, rows.mask)


def talr(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, least: float
) -> tuple[jax.Array, Metrics]:
    """`losses.weighted_nll` with the weights of the iteration's beginning."""
    weights = given(rows.token_weights, "rows.token_weights")
    return weighted_nll(logprobs_of(policy, params, rows), weights, rows.mask)


def with_tempered_weights(rows: Rows, *, least: float) -> Rows:
    """The temperature is a median over all rows of the iteration."""
    old = given(rows.old_logprobs, "rows.old_logprobs")
    return dataclasses.replace(rows, token_weights=tempered_weights(old, rows.mask, least=least))


def anchored_nll(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, coefficient: float
) -> tuple[jax.Array, Metrics]:
    """nll + coefficient KL(base || policy), the exact mean over the demonstrations' tokens."""
    base = read_constant(policy, given(reads.base, "reads.base"), rows)
    logprobs, divergence = logprobs_and_divergence(
        policy,
        policy.read(params, rows),
        base,
        lambda log_policy, log_base: kl(log_base, log_policy),
    )
    loss, metrics = nll_loss(logprobs, rows.mask)
    nats = jnp.sum(jnp.where(rows.mask, divergence, 0.0))
    loss += coefficient * masked_mean(divergence, rows.mask)
    return loss, {**metrics, "kl_nats": nats}


def anchored_elsewhere_nll(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, coefficient: float
) -> tuple[jax.Array, Metrics]:
    """nll + coefficient KL(base || policy) of the base's own answers to prompts of other tasks.

    The KL is exact, and a sum over the tokens of those answers for each demonstrated token: one
    scale for both terms, however long either is (arXiv 2605.26097).
    """
    anchor = given(rows.anchor, "rows.anchor")
    base = read_constant(policy, given(reads.base, "reads.base"), anchor)
    _, divergence = logprobs_and_divergence(
        policy,
        policy.read(params, anchor),
        base,
        lambda log_policy, log_base: kl(log_base, log_policy),
    )
    loss, metrics = nll_loss(logprobs_of(policy, params, rows), rows.mask)
    held = anchor.mask & jnp.any(rows.mask, axis=1, keepdims=True)  # not beside a row of padding
    nats = jnp.sum(jnp.where(held, divergence, 0.0))
    loss += coefficient * nats / jnp.maximum(jnp.sum(rows.mask), 1)
    return loss, {**metrics, "kl_nats": nats}


def simpo(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, beta: float, margin: float
) -> tuple[jax.Array, Metrics]:
    """`losses.simpo`: a right answer against a wrong one."""
    rejected = given(rows.rejected, "rows.rejected")
    return simpo_loss(
        logprobs_of(policy, params, rows),
        rows.mask,
        logprobs_of(policy, params, rejected),
        rejected.mask,
        beta=beta,
        margin=margin,
    )


def dpo(
    policy: Policy, params: Params, reads: Reads, rows: Rows, *, beta: float
) -> tuple[jax.Array, Metrics]:
    """`losses.dpo`: the same, both measured from the base."""
    rejected = given(rows.rejected, "rows.rejected")
    return dpo_loss(
        logprobs_of(policy, params, rows),
        given(rows.base_logprobs, "rows.base_logprobs"),
        rows.mask,
        logprobs_of(policy, params, rejected),
        given(rejected.base_logprobs, "rows.rejected.base_logprobs"),
        rejected.mask,
        beta=beta,
    )


def with_base_logprobs(policy: Policy, params: Params, reads: Reads, rows: Rows, **_: Any) -> Rows:
    """Of a row, and of its wrong answer where it has one."""
    base = given(reads.base, "reads.base")

    def scored(rows: Rows) -> Rows:
        return dataclasses.replace(rows, base_logprobs=logprobs_of(policy, base, rows))

    rejected = None if rows.rejected is None else scored(rows.rejected)
    return dataclasses.replace(scored(rows), rejected=rejected)


def pairs(rows: Rows) -> jax.Array:
    """The weight of a mean over pairs, both of whose answers say anything."""
    rejected = given(rows.rejected, "rows.rejected")
    return jnp.sum(jnp.any(rows.mask, axis=1) & jnp.any(rejected.mask, axis=1))


def logprobs_of(policy: Policy, params: Params, rows: Rows) -> jax.Array:  # f32[B, T]
    return policy.logprobs(policy.read(params, rows))
