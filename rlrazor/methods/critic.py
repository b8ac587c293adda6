"""PPO as SFT Memorizes, RL Generalizes has it: a turn is an action, a critic judges the turns."""

import dataclasses
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp

from rlrazor.losses.ppo_clip_fallback import ppo_clip_fallback
from rlrazor.losses.value_loss import value_loss
from rlrazor.methods.method import Reads, given
from rlrazor.models.value_head import value_of
from rlrazor.ops.advantages import whitened
from rlrazor.ops.aggregate import token_mean
from rlrazor.ops.returns import gae
from rlrazor.policies.policy import Policy, Reading
from rlrazor.types import Critique, Metrics, Params, Rows, Turns

EPSILON = 1e-8  # in units of the advantage, beside its standard deviation


class Knobs(TypedDict):
    clip: float  # of the ratio on both sides, and of the critic's step
    fallback_above: float  # see losses.ppo_clip_fallback
    value_coefficient: float  # of the critic's loss
    thought_weight: float  # of a log-probability before the turn's first `answer_token`
    answer_token: int | None  # begins what is judged; None: all tokens of a turn count in full
    discount: float  # gamma, a turn
    decay: float  # lambda of GAE


def ppo(
    policy: Policy, params: Params, reads: Reads, rows: Rows, **knobs: Unpack[Knobs]
) -> tuple[jax.Array, Metrics]:
    """The clipped surrogate of turns plus the critic's error; one reading serves both.

    The critic reads the policy's own states, so its error is a gradient of the trunk's too.
    """
    seen, turns = given(rows.critique, "rows.critique"), given(rows.turns, "rows.turns")
    behaviour = given(rows.behaviour_logprobs, "rows.behaviour_logprobs")
    reading = policy.read(params, rows)
    policy_loss, metrics = ppo_clip_fallback(
        _of_turns(policy.logprobs(reading), rows, turns, **knobs),
        _of_turns(behaviour, rows, turns, **knobs),
        seen.advantages,
        turns.played,
        clip_low=knobs["clip"],
        clip_high=knobs["clip"],
        fallback_above=knobs["fallback_above"],
        aggregate=token_mean,
    )
    critic_loss, of_critic = value_loss(
        _values(reading, reads, turns), seen.values, seen.targets, turns.played, clip=knobs["clip"]
    )
    metrics = {**metrics, "turns": of_critic["turns"], "value_error": of_critic["squared_error"]}
    return policy_loss + knobs["value_coefficient"] * critic_loss, metrics


def critique(
    policy: Policy, params: Params, reads: Reads, rows: Rows, **knobs: Unpack[Knobs]
) -> Rows:
    """GAE over turns. The turn budget is part of the task: nothing is to be had behind it."""
    turns = given(rows.turns, "rows.turns")
    values = _values(policy.read(params, rows), reads, turns)
    ends = turns.played & ~jnp.pad(turns.played[:, 1:], ((0, 0), (0, 1)))
    advantages = gae(
        turns.rewards,
        values,
        jnp.zeros_like(values),
        ends,
        jnp.zeros_like(ends),
        turns.played,
        discount=knobs["discount"],
        decay=knobs["decay"],
    )
    seen = Critique(advantages=advantages, targets=advantages + values, values=values)
    return dataclasses.replace(rows, critique=seen)


def whitened_critique(rows: Rows, **_: Any) -> Rows:
    """Advantages of mean 0 and standard deviation 1 over all turns of the iteration."""
    seen, turns = given(rows.critique, "rows.critique"), given(rows.turns, "rows.turns")
    white = whitened(seen.advantages, turns.played, epsilon=EPSILON)
    return dataclasses.replace(rows, critique=dataclasses.replace(seen, advantages=white))


def turns_played(rows: Rows) -> jax.Array:
    """The weight of a mean over turns."""
    return jnp.sum(given(rows.turns, "rows.turns").played)


def _values(reading: Reading, reads: Reads, turns: Turns) -> jax.Array:
    """f32[B, K] of the state that a turn's first token is drawn from; anything if not played."""
    begins = reading.place[:, None] == turns.start[..., None]  # bool[B, K, A]
    before = jnp.argmax(begins, axis=-1)[..., None]
    states = jnp.take_along_axis(reading.states, before, axis=1)
    return value_of(given(reads.critic, "reads.critic"), states)


def _of_turns(
    logprobs: jax.Array,  # f32[B, T]
    rows: Rows,
    turns: Turns,
    **knobs: Unpack[Knobs],
) -> jax.Array:  # f32[B, K] log-probability of each turn's answer, thoughts weighted
    K = turns.played.shape[1]
    turn = jnp.arange(K)[None, :, None]
    mine = rows.mask[:, None] & (turns.of_token[:, None] == turn)  # bool[B, K, T]
    weight = jnp.ones(mine.shape, jnp.float32)
    if knobs["answer_token"] is not None:
        answering = mine & (rows.tokens == knobs["answer_token"])[:, None]
        begun = jnp.cumsum(answering, axis=-1) > 0
        weight = jnp.where(begun, 1.0, knobs["thought_weight"])
    return jnp.sum(jnp.where(mine, weight * logprobs[:, None], 0.0), axis=-1)
