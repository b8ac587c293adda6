"""From tasks to the rows that a step learns from: demonstrations, pairs, episodes just played."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from experiments.general_points.language import END, Player
from experiments.general_points.mixture import END_ROW
from rlrazor.ops.advantages import centred, leave_one_out, standardised
from rlrazor.ops.sequences import append, between, prompt_and_answer
from rlrazor.sampling.decode import Sampling
from rlrazor.tasks.general_points.task import GeneralPoints
from rlrazor.types import Metrics, Params


@struct.dataclass
class Rows:
    """Rows to learn from; what a source does not have is None."""

    tokens: jax.Array  # i32[B, T]
    mask: jax.Array  # bool[B, T] tokens to learn from
    rejected: tuple[jax.Array, jax.Array] | None = None  # i32[B, T], bool[B, T] a wrong answer
    behaviour_logprobs: jax.Array | None = None  # f32[B, T]
    advantages: jax.Array | None = None  # f32[B] of the episode
    turn: jax.Array | None = None  # i32[B, T] of a chosen token; -1 elsewhere
    answer_start: jax.Array | None = None  # i32[B, K]
    played: jax.Array | None = None  # bool[B, K]
    rewards: jax.Array | None = None  # f32[B, K]
    solved: jax.Array | None = None  # bool[B]
    shown: tuple[jax.Array, jax.Array] | None = None  # i32[B, U], bool[B, U] behind an expert's
    added: Any = None  # what `objectives` works out once an iteration, rows first


def demonstrations(task: GeneralPoints, keys: jax.Array) -> Rows:
    """Fresh hands with an expert's answer, drawn evenly among all solutions."""

    def row(key):
        deal_key, answer_key = jax.random.split(key)
        state = task.reset(deal_key)
        said = task.opening(state)
        answer = task.demonstrate(answer_key, state)
        return prompt_and_answer(said.tokens, said.length, *answer, end=END)

    return Rows(*jax.vmap(row)(keys))


def preference_pairs(task: GeneralPoints, keys: jax.Array) -> Rows:
    """The expert's answer beside one with any formula over the hand, which is seldom right."""

    def pair(key):
        deal_key, answer_key, wrong_key = jax.random.split(key, 3)
        state = task.reset(deal_key)
        said = task.opening(state)
        right = task.demonstrate(answer_key, state)
        wrong = task.mistake(wrong_key, state)
        rows = [prompt_and_answer(said.tokens, said.length, *x, end=END) for x in (right, wrong)]
        return rows[0], rows[1]

    (tokens, mask), rejected = jax.vmap(pair)(keys)
    return Rows(tokens, mask, rejected=rejected)


ADVANTAGES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "reward": lambda rewards: rewards,
    "centred": centred,
    "standardised": functools.partial(standardised, epsilon=1e-4),
    "leave_one_out": leave_one_out,
}


def episodes(
    player: Player,
    params: Params,
    task: GeneralPoints,
    keys: jax.Array,  # key[P]
    *,
    temperature: float,
    turns: int,
    samples: int,
    advantage: str | None,
    keep: str,  # "all", or the "solved"
    answer_keys: jax.Array | None = None,  # key[P] if answers do not follow from `keys`
) -> tuple[Rows, Metrics]:
    """Plays, and says how it went.

    An episode's reward is that of its last answer. Metrics are means over the batch: `reward`,
    `solved`, `answer_cut` (answers that ran into their limit), `empty` (answers of no token but the
    end), `groups_alike` (prompts whose samples all earned the same: nothing to learn there) and
    `entropy_nats`, minus the mean behaviour log-probability of a token.
    """
    played = player.play(
        params,
        task,
        keys,
        Sampling(temperature),
        turns=turns,
        samples=samples,
        answer_keys=answer_keys,
    )
    last = jnp.sum(played.played, axis=1) - 1
    reward = jnp.take_along_axis(played.verdict.reward, last[:, None], axis=1)[:, 0]
    solved = jnp.any(played.verdict.correct, axis=1)
    groups = reward.reshape(-1, samples)
    advantages = None if advantage is None else ADVANTAGES[advantage](groups).reshape(-1)
    mask = played.chosen
    if keep == "solved":  # the answer that solved it, not those before
        mask &= solved[:, None] & (played.turn == last[:, None])
    rows = Rows(
        tokens=played.tokens,
        mask=mask,
        behaviour_logprobs=played.behaviour_logprobs,
        advantages=advantages,
        turn=played.turn,
        answer_start=played.answer_start,
        played=played.played,
        rewards=played.verdict.reward,
        solved=solved,
    )
    turns_played = jnp.maximum(jnp.sum(played.played), 1)
    tokens = jnp.maximum(jnp.sum(played.chosen), 1)
    metrics = {
        "reward": jnp.mean(reward),
        "solved": jnp.mean(solved, dtype=jnp.float32),
        "answer_cut": jnp.sum(played.cut) / turns_played,
        "empty": jnp.mean(jnp.sum(played.chosen, axis=1) <= 1, dtype=jnp.float32),
        "groups_alike": jnp.mean(jnp.ptp(groups, axis=1) == 0, dtype=jnp.float32),
        "answer_tokens": tokens / turns_played,
        "entropy_nats": -jnp.sum(played.behaviour_logprobs) / tokens,
    }
    return rows, metrics


def with_demonstration(
    task: GeneralPoints, keys: jax.Array, rows: Rows
) -> tuple[jax.Array, jax.Array]:  # i32[B, U], bool[B, U]
    """The same hands and answers, read behind an expert's answer to the same hand (SDFT).

    `keys` are those that dealt the hands, one a row. The policy's tokens come last, in their order.
    """

    def row(key, tokens, mask):
        state = task.reset(jax.random.fold_in(key, 0))
        said = task.opening(state)
        answer, length = task.demonstrate(jax.random.fold_in(key, 2), state)
        size = len(said.tokens) + len(answer) + 1 + len(tokens)
        start = jnp.zeros(size, jnp.int32), jnp.int32(0)
        whole = append(append(start, said.tokens, said.length), answer, length)
        said_in_all = jnp.max(jnp.where(mask, jnp.arange(len(mask)) + 1, 0))
        joined, end = append(append(whole, END_ROW, 1), tokens, said_in_all)
        return joined, between(end - jnp.sum(mask), end, size)

    return jax.vmap(row)(keys, rows.tokens, rows.mask)
