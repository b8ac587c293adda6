"""Episodes of a task: it speaks, the policy answers, the judge judges, and speaks again.

A batch of thousands runs in one program, without the host: answers become bytes by a table, bytes a
verdict, a verdict the next words (the sequential revision of SFT Memorizes, RL Generalizes, 3.2).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.ops.spelling import spell
from rlrazor.sampling.decode import Append, Sampling, Stops, decode
from rlrazor.tasks.protocol import Observation, Task, Verdict

Say = Callable[[Any], Observation]  # of one state


@struct.dataclass
class Rollout:
    """Episodes as the policy saw and wrote them, one after the other from slot 0 of each row.

    A turn that was never played has no tokens, reward 0 and all flags false.
    """

    tokens: jax.Array  # i32[B, T] all that was said by either side, zero padded
    length: jax.Array  # i32[B]
    chosen: jax.Array  # bool[B, T] tokens that the policy drew
    behaviour_logprobs: jax.Array  # f32[B, T] of the distribution really sampled; 0 elsewhere
    turn: jax.Array  # i32[B, T] turn in which a chosen token was drawn; -1 elsewhere
    played: jax.Array  # bool[B, K] turns that were played
    answer_start: jax.Array  # i32[B, K] slot of the turn's first chosen token
    verdict: Verdict  # [B, K] each
    cut: jax.Array  # bool[B, K] the answer ran into its limit before it stopped
    state: Any  # of the task, after the last turn


@struct.dataclass
class _Transcript:
    tokens: jax.Array
    length: jax.Array
    chosen: jax.Array
    behaviour_logprobs: jax.Array
    turn: jax.Array


def play(
    task: Task,
    append: Append,
    cache: Any,  # empty, of P rows
    keys: jax.Array,  # key[P] one a prompt
    sampling: Sampling,
    stops: Stops,
    spelling: tuple[jax.Array, jax.Array],  # u8[V, M], i32[V]: the bytes of every token
    *,
    turns: int,  # K, at most; a task may end sooner
    answer_size: int,  # tokens a turn
    answer_bytes: int,  # of the text that is judged
    opening: Callable[[Any], Observation] | None = None,  # first words, if not observe's
    say: Callable[[Any], Observation] | None = None,  # later words, if not observe's
    samples: int = 1,  # G, episodes a prompt
    repeat: Callable[[Any, int], Any] | None = None,  # (cache, G): every row G times in a row
    answer_keys: jax.Array | None = None,  # key[P] what answers follow from, if not `keys`
) -> Rollout:
    """Plays B = P G episodes of up to `turns` turns, skipping the work of turns that nobody plays.

    Episodes of one prompt follow each other; it is read once, then answered G times, by keys of
    their own.
    """
    if turns < 1 or samples < 1:
        raise ValueError(f"turns={turns} and samples={samples} must be at least 1")
    if samples > 1 and repeat is None:
        raise ValueError(f"samples={samples} needs `repeat`, which multiplies the rows of a cache")
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    state = jax.vmap(task.reset)(fold(keys, 0))
    later = jax.vmap(say or task.observe)
    first = jax.vmap(opening or task.observe)(state)
    logits, cache = append(cache, first.tokens, first.length)
    if samples > 1:
        cache = repeat(cache, samples)  # type: ignore[misc]  # checked above
        state, first, logits = jax.tree.map(
            lambda x: jnp.repeat(x, samples, axis=0), (state, first, logits)
        )
    B = len(logits)
    answer_keys = fold(keys if answer_keys is None else answer_keys, 1)
    answer_keys = jax.vmap(jax.random.fold_in)(
        jnp.repeat(answer_keys, samples), jnp.tile(jnp.arange(samples), len(keys))
    )
    later_size = jax.eval_shape(later, state).tokens.shape[1]
    size = first.tokens.shape[1] + (turns - 1) * later_size + turns * answer_size
    transcript = _Transcript(
        tokens=jnp.zeros((B, size), jnp.int32),
        length=jnp.zeros(B, jnp.int32),
        chosen=jnp.zeros((B, size), bool),
        behaviour_logprobs=jnp.zeros((B, size), jnp.float32),
        turn=jnp.full((B, size), -1, jnp.int32),
    )

    def answer(said: Observation, turn, logits, going, state, transcript, cache):
        transcript = _write(transcript, jnp.where(going, said.length, 0), tokens=said.tokens)
        turn_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(answer_keys, turn)
        decoded = decode(append, cache, logits, turn_keys, going, sampling, stops, size=answer_size)
        start = transcript.length
        transcript = _write(
            transcript,
            decoded.length,
            tokens=decoded.tokens,
            chosen=jnp.ones_like(decoded.tokens, bool),
            behaviour_logprobs=decoded.behaviour_logprobs,
            turn=jnp.broadcast_to(turn, decoded.tokens.shape),
        )
        text = jax.vmap(lambda tokens, n: spell(tokens, *spelling, answer_bytes, n)[0])(
            decoded.tokens, decoded.length
        )
        state, verdict = jax.vmap(_step_if_going, in_axes=(None, 0, 0, 0))(task, going, state, text)
        cut = going & ~decoded.stopped
        return (state, transcript, decoded.cache), (going, start, verdict, cut)

    going = ~(state.terminated | state.truncated)
    carry, opened = answer(first, jnp.int32(0), logits, going, state, transcript, cache)

    def next_turn(carry, turn):
        state, transcript, cache = carry

        def play_on():
            going = ~(state.terminated | state.truncated)
            said = later(state)
            logits, read = append(cache, said.tokens, jnp.where(going, said.length, 0))
            return answer(said, turn, logits, going, state, transcript, read)

        def skip():
            return carry, jax.tree.map(jnp.zeros_like, opened)

        return jax.lax.cond(jnp.all(state.terminated | state.truncated), skip, play_on)

    carry, others = jax.lax.scan(next_turn, carry, jnp.arange(1, turns))
    state, transcript, _ = carry
    played, starts, verdict, cut = jax.tree.map(
        lambda one, more: jnp.concatenate([one[:, None], jnp.moveaxis(more, 0, 1)], axis=1),
        opened,
        others,
    )
    return Rollout(
        tokens=transcript.tokens,
        length=transcript.length,
        chosen=transcript.chosen,
        behaviour_logprobs=transcript.behaviour_logprobs,
        turn=transcript.turn,
        played=played,
        answer_start=starts,
        verdict=verdict,
        cut=cut,
        state=state,
    )


def _step_if_going(
    task: Task, going: jax.Array, state: Any, text: jax.Array
) -> tuple[Any, Verdict]:
    """The task's step; for an episode that is over, its state as it is and an empty verdict."""
    stepped, verdict = task.step(state, text)
    kept = jax.tree.map(lambda new, old: jnp.where(going, new, old), stepped, state)
    return kept, jax.tree.map(lambda x: jnp.where(going, x, jnp.zeros_like(x)), verdict)


def _write(
    transcript: _Transcript,
    length: jax.Array,  # i32[B]
    **columns: jax.Array,  # [B, n] by name; those not given stay as they are
) -> _Transcript:
    """Adds the first length[b] entries of every column behind row b."""
    size = transcript.tokens.shape[1]
    (n,) = {column.shape[1] for column in columns.values()}
    place = jnp.arange(n)[None]
    # What is not real is sent beyond the end and dropped there.
    slots = jnp.where(place < length[:, None], transcript.length[:, None] + place, size)
    put = jax.vmap(lambda row, slots, column: row.at[slots].set(column, mode="drop"))
    written = {
        name: put(getattr(transcript, name), slots, column) for name, column in columns.items()
    }
    return dataclasses.replace(transcript, length=transcript.length + length, **written)
