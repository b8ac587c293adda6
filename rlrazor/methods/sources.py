"""From tasks to the rows that a method learns from: demonstrations, pairs, episodes just played.

Pure functions of states that were dealt and keys; which policy plays is the caller's to say.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rlrazor.methods.method import Demonstrations, Method, Pairs, Source, given
from rlrazor.ops.sequences import append, prompt_and_answer
from rlrazor.sampling import episodes
from rlrazor.sampling.episodes import Rollout
from rlrazor.tasks.protocol import Expert, Task
from rlrazor.types import Metrics, Rows, Turns


def deal(source: Source, task: Task, keys: jax.Array) -> Any:  # key[P] -> states [P]
    """New examples for a source, which goes on with the same keys and draws independently."""
    if isinstance(source, Demonstrations):
        return jax.vmap(lambda key: task.reset(jax.random.split(key)[0]))(keys)
    if isinstance(source, Pairs):
        return jax.vmap(lambda key: task.reset(jax.random.split(key, 3)[0]))(keys)
    return episodes.deal(task, keys)


def demonstrations(
    task: Task,
    expert: Expert,
    states: Any,  # [P], of `deal`
    keys: jax.Array,  # key[P]
    *,
    end: int,  # token behind an answer
) -> Rows:
    """One expert's answer to each."""

    def row(state: Any, key: jax.Array) -> Rows:
        return _answered(task, state, expert.demonstrate(jax.random.split(key)[1], state), end)

    return jax.vmap(row)(states, keys)


def pairs(
    task: Task,
    expert: Expert,
    states: Any,  # [P], of `deal`
    keys: jax.Array,  # key[P]
    *,
    end: int,
) -> Rows:
    """The expert's answer beside a mistake, the row's `rejected`."""

    def row(state: Any, key: jax.Array) -> Rows:
        _, answer_key, wrong_key = jax.random.split(key, 3)
        right = _answered(task, state, expert.demonstrate(answer_key, state), end)
        wrong = _answered(task, state, expert.mistake(wrong_key, state), end)
        return dataclasses.replace(right, rejected=wrong)

    return jax.vmap(row)(states, keys)


def _answered(task: Task, state: Any, answer: tuple[jax.Array, jax.Array], end: int) -> Rows:
    said = task.opening(state)
    tokens, mask = prompt_and_answer(said.tokens, said.length, *answer, end=end)
    count = said.length + answer[1] + 1
    return Rows(tokens, count, mask, prompt_count=said.length, prompt_size=len(said.tokens))


def rows_of(rollout: Rollout) -> Rows:
    """Episodes as rows; every answer of an episode is the policy's to say.

    An episode is worth the reward of its last answer, and is correct if any of its answers was. An
    answer that ran into its limit is what the task's judge says it is.
    """
    last = jnp.maximum(jnp.sum(rollout.played, axis=1) - 1, 0)
    rewards = jnp.take_along_axis(rollout.verdict.reward, last[:, None], axis=1)[:, 0]
    return Rows(
        tokens=rollout.tokens,
        count=rollout.length,
        mask=rollout.chosen,
        prompt_count=rollout.answer_start[:, 0],
        behaviour_logprobs=rollout.behaviour_logprobs,
        rewards=rewards,
        correct=jnp.any(rollout.verdict.correct, axis=1),
        stopped=~jnp.any(rollout.truncated, axis=1),
        turns=Turns(
            played=rollout.played,
            start=rollout.answer_start,
            rewards=rollout.verdict.reward,
            of_token=rollout.turn,
        ),
        prompt_size=rollout.prompt_size,
        samples=rollout.samples,
    )


def kept(rows: Rows, keep: Literal["all", "correct"]) -> Rows:
    """What is learnt from: all, or of each solved episode the answer that solved it, its last."""
    if keep == "all":
        return rows
    mask = rows.mask & given(rows.correct, "rows.correct")[:, None]
    if rows.turns is not None:
        last = jnp.sum(rows.turns.played, axis=1) - 1
        mask &= rows.turns.of_token == last[:, None]
    return dataclasses.replace(rows, mask=mask)


def demonstrated(
    task: Task,
    expert: Expert,
    dealt: Any,  # states [B] before the first turn, one a row
    keys: jax.Array,  # key[P] that dealt them
    rows: Rows,  # [B], B = P G
    *,
    end: int,
) -> Rows:
    """The rows with `demonstrated`: the same episodes behind a demonstration for their prompt.

    An expert's answer to the same example comes first, and all G rows of a prompt have the same
    one (SDFT, arXiv 2601.19897). The prompt of such a row reaches to the policy's first answer.
    """
    prompt_count = given(rows.prompt_count, "rows.prompt_count")

    def row(key: jax.Array, state: Any, tokens: jax.Array, count: jax.Array, mask: jax.Array):
        said = task.opening(state)
        answer, length = expert.demonstrate(jax.random.fold_in(key, 2), state)
        size = len(said.tokens) + len(answer) + 1
        start = jnp.zeros(size + len(tokens), jnp.int32), jnp.int32(0)
        before = append(append(start, said.tokens, said.length), answer, length)
        before, shift = append(before, jnp.full(1, end, jnp.int32), 1)
        joined, total = append((before, shift), tokens, count)
        # A row's place t is place shift + t of the longer one.
        place = jnp.arange(len(joined)) - shift
        in_row = (place >= 0) & (place < len(tokens))
        return joined, total, in_row & mask[jnp.clip(place, 0, len(tokens) - 1)], shift

    keys = jnp.repeat(keys, rows.samples)
    tokens, count, mask, shift = jax.vmap(row)(keys, dealt, rows.tokens, rows.count, rows.mask)
    behind = Rows(
        tokens=tokens,
        count=count,
        mask=mask,
        prompt_count=shift + prompt_count,
        prompt_size=tokens.shape[1] - rows.tokens.shape[1] + rows.prompt_size,
        samples=rows.samples,
    )
    return dataclasses.replace(rows, demonstrated=behind)


def with_advantages(method: Method, rows: Rows) -> Rows:
    """The method's advantages of each row among the `samples` rows of its prompt."""
    if method.advantage is None:
        return rows
    rewards = given(rows.rewards, "rows.rewards")
    advantages = method.advantage(rewards.reshape(-1, rows.samples)).reshape(-1)
    return dataclasses.replace(rows, advantages=advantages)


def metrics_of(played: Rollout | Rows) -> Metrics:
    """How episodes, or judged answers of one turn, went: means over the batch, before `kept`.

    `reward`, `solved`, `answer_truncated` (answers that ran into their limit), `empty` (episodes of
    no token but the end), `groups_alike` (prompts whose samples all earned the same: nothing to
    learn there), `answer_tokens`, and `entropy_nats`, minus the mean behaviour log-probability of a
    token.
    """
    rows = rows_of(played) if isinstance(played, Rollout) else played
    if isinstance(played, Rollout):
        answers, truncated = played.played, played.truncated
    else:
        answers = jnp.any(rows.mask, axis=1)
        truncated = answers & ~given(rows.stopped, "rows.stopped")
    rewards, correct = given(rows.rewards, "rows.rewards"), given(rows.correct, "rows.correct")
    logprobs = given(rows.behaviour_logprobs, "rows.behaviour_logprobs")
    count = jnp.maximum(jnp.sum(answers), 1)
    tokens = jnp.maximum(jnp.sum(rows.mask), 1)
    alike = jnp.ptp(rewards.reshape(-1, rows.samples), axis=1) == 0
    return {
        "reward": jnp.mean(rewards),
        "solved": jnp.mean(correct, dtype=jnp.float32),
        "answer_truncated": jnp.sum(truncated) / count,
        "empty": jnp.mean(jnp.sum(rows.mask, axis=1) <= 1, dtype=jnp.float32),
        "groups_alike": jnp.mean(alike, dtype=jnp.float32),
        "answer_tokens": tokens / count,
        "entropy_nats": -jnp.sum(jnp.where(rows.mask, logprobs, 0.0)) / tokens,
    }
