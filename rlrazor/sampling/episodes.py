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
    answer_start: jax.Array  # i32[B, K] slot of the turn's first chosen token; 0: not played
    verdict: Verdict  # [B, K] each
    truncated: jax.Array  # bool[B, K] the answer ran into its limit before it stopped
    dealt: Any  # [B] states of the task before the first turn: other judges judge these
    state: Any  # [B] and after the last
    prompt_size: int = struct.field(pytree_node=False)  # slots of the opening
    samples: int = struct.field(pytree_node=False)  # G episodes of a prompt follow each other


@struct.dataclass
class _Transcript:
    tokens: jax.Array
    length: jax.Array
    chosen: jax.Array
    behaviour_logprobs: jax.Array
    turn: jax.Array


@dataclasses.dataclass(frozen=True)
class Player:
    """Who answers: a model that appends tokens to a cache, and how its answers end and are read."""

    append: Append
    empty: Callable[[int, int], Any]  # (rows, slots) -> a cache that holds nothing
    repeat: Callable[[Any, int], Any]  # (cache, G): every row G times in a row
    stops: Stops
    spelling: tuple[jax.Array, jax.Array]  # u8[V, M], i32[V]: the bytes of every token
    answer_tokens: int  # a turn, at most
    answer_bytes: int  # of the text that is judged


def deal(task: Task, keys: jax.Array) -> Any:  # key[P] -> states [P]
    """New examples of a task, one a key; `play` with the same keys draws independently of them."""
    return jax.vmap(task.reset)(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 0))


def play(
    player: Player,
    task: Task,
    dealt: Any,  # states [P], of `deal`
    keys: jax.Array,  # key[P] what the answers follow from
    sampling: Sampling,
    *,
    turns: int,  # K, at most; a task may end sooner
    samples: int = 1,  # G, episodes a prompt
    first_sample: jax.Array | None = None,  # i32[P] which of its prompt's these begin with; None: 0
) -> Rollout:
    """Plays B = P G episodes of up to `turns` turns, skipping the work of turns that nobody plays.

    Episodes of one prompt follow each other; it is read once, then answered G times, by keys of
    their own. Sample g of a prompt is the same wherever it is played, see `first_sample`.
    """
    if turns < 1 or samples < 1:
        raise ValueError(f"turns={turns} and samples={samples} must be at least 1")
    first, later = jax.vmap(task.opening)(dealt), jax.vmap(task.reply)
    P, prompt_size = first.tokens.shape
    later_size = jax.eval_shape(later, dealt).tokens.shape[1]
    size = prompt_size + (turns - 1) * later_size + turns * player.answer_tokens
    logits, cache = player.append(player.empty(P, size), first.tokens, first.length)
    if samples > 1:
        cache = player.repeat(cache, samples)
        dealt, first, logits = jax.tree.map(
            lambda x: jnp.repeat(x, samples, axis=0), (dealt, first, logits)
        )
    state, B = dealt, P * samples
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    first_sample = jnp.zeros(P, jnp.int32) if first_sample is None else first_sample
    number = first_sample[:, None] + jnp.arange(samples)[None]
    answer_keys = jax.vmap(jax.random.fold_in)(
        jnp.repeat(fold(keys, 1), samples), number.reshape(-1)
    )
    transcript = _Transcript(
        tokens=jnp.zeros((B, size), jnp.int32),
        length=jnp.zeros(B, jnp.int32),
        chosen=jnp.zeros((B, size), bool),
        behaviour_logprobs=jnp.zeros((B, size), jnp.float32),
        turn=jnp.full((B, size), -1, jnp.int32),
    )

    def answer(said: Observation, turn, logits, going, state, transcript, cache):
        transcript = _write(transcript, jnp.where(going, said.length, 0), tokens=said.tokens)
        decoded = decode(
            player.append, cache, logits, fold(answer_keys, turn), going, sampling, player.stops,
            size=player.answer_tokens,
        )  # fmt: skip
        # Else it would say whether others of the batch still play.
        start = jnp.where(going, transcript.length, 0)
        transcript = _write(
            transcript,
            decoded.length,
            tokens=decoded.tokens,
            chosen=jnp.ones_like(decoded.tokens, bool),
            behaviour_logprobs=decoded.behaviour_logprobs,
            turn=jnp.broadcast_to(turn, decoded.tokens.shape),
        )
        text = jax.vmap(lambda t, n: spell(t, *player.spelling, player.answer_bytes, n)[0])(
            decoded.tokens, decoded.length
        )
        state, verdict = jax.vmap(_step_if_going, in_axes=(None, 0, 0, 0))(task, going, state, text)
        truncated = going & ~decoded.stopped
        return (state, transcript, decoded.cache), (going, start, verdict, truncated)

    going = ~(state.terminated | state.truncated)
    carry, opened = answer(first, jnp.int32(0), logits, going, state, transcript, cache)

    def next_turn(carry, turn):
        state, transcript, cache = carry

        def play_on():
            going = ~(state.terminated | state.truncated)
            said = later(state)
            logits, read = player.append(cache, said.tokens, jnp.where(going, said.length, 0))
            return answer(said, turn, logits, going, state, transcript, read)

        def skip():
            return carry, jax.tree.map(jnp.zeros_like, opened)

        return jax.lax.cond(jnp.all(state.terminated | state.truncated), skip, play_on)

    carry, others = jax.lax.scan(next_turn, carry, jnp.arange(1, turns))
    state, transcript, _ = carry
    played, starts, verdict, truncated = jax.tree.map(
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
        truncated=truncated,
        dealt=dealt,
        state=state,
        prompt_size=prompt_size,
        samples=samples,
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
