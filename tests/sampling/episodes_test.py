"""Episodes of a guessing game played by a bigram, so that every slot can be checked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from rlrazor.sampling.decode import Sampling, decode, make_stops
from rlrazor.sampling.episodes import Player, deal, play
from rlrazor.tasks.protocol import Observation, Verdict
from tests.oracles import spoken

V, END = 8, 7  # tokens 0 to 6 spell their digit, 7 nothing
SPELLING = (jnp.array([[48 + t] for t in range(V)], jnp.uint8), jnp.array([1] * END + [0]))
TABLE = jnp.asarray(np.random.default_rng(1).normal(size=(V, V)), jnp.float32)


@struct.dataclass
class Guess:
    secret: jax.Array
    turn: jax.Array
    heard: jax.Array  # first digit of the last answer
    terminated: jax.Array
    truncated: jax.Array


@struct.dataclass
class GuessTheDigit:
    """Says the secret, once or twice; an answer is right if it begins with it."""

    budget: jax.Array

    def reset(self, key):
        secret = jax.random.randint(key, (), 0, 4)
        return Guess(secret, jnp.int32(0), jnp.int32(0), jnp.bool_(False), jnp.bool_(False))

    def opening(self, state):
        tokens = jnp.stack([state.secret, state.secret, jnp.int32(5)])
        return Observation(tokens, 2 + state.secret % 2)

    def reply(self, state):
        return Observation(jnp.stack([state.heard, jnp.int32(6), jnp.int32(0)]), jnp.int32(2))

    def step(self, state, answer):
        correct = answer[0] == 48 + state.secret
        turn = state.turn + 1
        new = Guess(
            state.secret, turn, answer[0].astype(jnp.int32) % 8, correct,
            ~correct & (turn >= self.budget),
        )  # fmt: skip
        return new, Verdict(correct * 1.0 - 0.5, correct, {"silent": answer[0] == 0})


def append(cache, tokens, count):
    newest = jnp.take_along_axis(tokens, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    last = jnp.where(count > 0, newest, cache)
    return TABLE[last], last


def repeat(cache, times):
    return jnp.repeat(cache, times, axis=0)


def empty(rows, slots):
    return jnp.zeros(rows, jnp.int32)


@struct.dataclass
class Whispering(GuessTheDigit):
    """Opens otherwise, in one token, and replies in fewer."""

    def opening(self, state):
        return Observation(jnp.stack([6 - state.secret, jnp.int32(0)]), jnp.int32(1))

    def reply(self, state):
        return Observation(super().reply(state).tokens[:2], jnp.int32(2))


PLAYER = Player(append, empty, repeat, make_stops([[END]]), SPELLING, 4, answer_bytes=6)


@functools.partial(jax.jit, static_argnames=("turns", "samples", "kind"))
def played(
    keys, budget=3, temperature=1.0, turns=3, samples=1, kind=GuessTheDigit, answer_keys=None
):
    task = kind(jnp.asarray(budget))
    keys_of_answers = keys if answer_keys is None else answer_keys
    return play(
        PLAYER, task, deal(task, keys), keys_of_answers, Sampling(temperature), turns=turns,
        samples=samples,
    )  # fmt: skip


KEYS = jax.random.split(jax.random.key(0), 64)


def episode(rollout, row):
    return jax.tree.map(lambda leaf: np.asarray(leaf[row]), rollout)


def test_every_slot_is_as_replaying_the_episode_says():
    rollout = played(KEYS)
    task = GuessTheDigit(jnp.int32(3))
    seen_turns = set()
    for row in range(len(KEYS)):
        one = episode(rollout, row)
        state = task.reset(jax.random.fold_in(KEYS[row], 0))
        slot = 0
        for turn in range(3):
            over = bool(state.terminated | state.truncated)
            assert one.played[turn] == (not over)
            if over:
                assert one.verdict.reward[turn] == 0
                assert not one.verdict.correct[turn]
                continue
            seen_turns.add(turn)
            said = spoken.observe(task, state)
            words = np.asarray(said.tokens[: said.length])
            np.testing.assert_array_equal(one.tokens[slot : slot + len(words)], words)
            assert not one.chosen[slot : slot + len(words)].any()
            slot += len(words)
            assert one.answer_start[turn] == slot
            answer = []
            while len(answer) < 4 and END not in answer:
                assert one.chosen[slot]
                assert one.turn[slot] == turn
                logprob = jax.nn.log_softmax(TABLE[one.tokens[slot - 1]])[one.tokens[slot]]
                np.testing.assert_allclose(one.behaviour_logprobs[slot], logprob, rtol=1e-5)
                answer.append(int(one.tokens[slot]))
                slot += 1
            assert one.truncated[turn] == (END not in answer)
            text = bytes(48 + token for token in answer if token != END).ljust(6, b"\0")
            state, verdict = task.step(state, jnp.frombuffer(text, jnp.uint8))
            assert one.verdict.reward[turn] == verdict.reward
            assert one.verdict.correct[turn] == verdict.correct
            assert one.verdict.failures["silent"][turn] == verdict.failures["silent"]
        assert one.length == slot
        assert not one.tokens[slot:].any()
        assert not one.chosen[slot:].any()
        assert (one.turn[~one.chosen] == -1).all()
        assert one.state.terminated == state.terminated
        assert one.state.truncated == state.truncated
    assert seen_turns == {0, 1, 2}


def test_an_episode_depends_on_its_own_key_alone():
    together, alone = played(KEYS), played(KEYS[5:6])
    for many, single in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(many[5], single[0])


def test_a_smaller_budget_is_the_beginning_of_a_larger_one():
    long, short = played(KEYS, budget=3), played(KEYS, budget=1)
    assert short.played.sum(0).tolist() == [64, 0, 0]
    assert not long.answer_start[~long.played].any()
    assert not short.answer_start[~short.played].any()
    np.testing.assert_array_equal(long.verdict.correct[:, 0], short.verdict.correct[:, 0])
    assert short.state.truncated.sum() == 64 - short.verdict.correct[:, 0].sum()
    one_turn = played(KEYS, budget=1, turns=1)
    np.testing.assert_array_equal(one_turn.tokens, short.tokens[:, : one_turn.tokens.shape[1]])


def test_temperature_is_alive():
    assert (played(KEYS).tokens != played(KEYS, temperature=0.0).tokens).any()
    assert not played(KEYS, temperature=0.0).behaviour_logprobs.any()


def test_refuses_no_turns():
    with pytest.raises(ValueError, match="turns=0 and samples=1 must be at least 1"):
        played(KEYS, turns=0)


# Several answers to one prompt.

PROMPTS, G = 12, 5
together = functools.partial(played, KEYS[:PROMPTS], samples=G)
answer_of = jax.jit(functools.partial(decode, append), static_argnames="size")


def alone(key, sample):
    """The tokens of one sample's episode, each turn decoded in a batch of one."""
    task = GuessTheDigit(jnp.int32(3))
    state = task.reset(jax.random.fold_in(key, 0))
    own = jax.random.fold_in(jax.random.fold_in(key, 1), sample)
    transcript, cache = [], jnp.zeros(1, jnp.int32)
    for turn in range(3):
        said = spoken.observe(task, state)
        transcript += said.tokens[: said.length].tolist()
        logits, cache = append(cache, said.tokens[None], said.length[None])
        drawn = answer_of(
            cache, logits, jax.random.fold_in(own, turn)[None], jnp.ones(1, bool), Sampling(),
            make_stops([[END]]), size=4,
        )  # fmt: skip
        tokens, cache = drawn.tokens[0, : drawn.length[0]].tolist(), drawn.cache
        transcript += tokens
        text = bytes(48 + token for token in tokens if token != END).ljust(6, b"\0")
        state, _ = task.step(state, jnp.frombuffer(text, jnp.uint8))
        if state.terminated | state.truncated:
            break
    return transcript


def test_every_sample_is_the_episode_played_alone():
    rollout = together()
    assert rollout.tokens.shape[0] == PROMPTS * G
    transcripts = [
        row[:length].tolist() for row, length in zip(rollout.tokens, rollout.length, strict=True)
    ]
    assert transcripts == [alone(key, g) for key in KEYS[:PROMPTS] for g in range(G)]
    assert len({len(transcript) for transcript in transcripts}) > 5


def test_samples_of_a_prompt_share_the_hand_and_not_the_answers():
    rollout = together()
    secrets = np.asarray(rollout.state.secret).reshape(PROMPTS, G)
    assert (secrets == secrets[:, :1]).all()
    assert len(np.unique(secrets[:, 0])) == 4
    lengths = np.asarray(rollout.length)
    for prompt in range(PROMPTS):
        rows = range(prompt * G, (prompt + 1) * G)
        assert len({tuple(rollout.tokens[row, : lengths[row]].tolist()) for row in rows}) >= 3


def test_the_first_samples_of_more_are_those_of_fewer():
    fewer = jax.tree.leaves(played(KEYS[:PROMPTS], samples=2))
    for many, few in zip(jax.tree.leaves(together()), fewer, strict=True):
        np.testing.assert_array_equal(
            np.reshape(many, (PROMPTS, G, -1))[:, :2], np.reshape(few, (PROMPTS, 2, -1))
        )


def test_samples_are_the_same_whoever_plays_them():
    """A device with the second half of a prompt's samples draws what all together would."""
    task = GuessTheDigit(jnp.int32(3))
    keys = KEYS[:PROMPTS]
    play_some = jax.jit(functools.partial(play, PLAYER, task), static_argnames=("turns", "samples"))
    second = play_some(
        deal(task, keys), keys, Sampling(), turns=3, samples=2,
        first_sample=jnp.full(PROMPTS, 3),
    )  # fmt: skip
    for some, every in zip(jax.tree.leaves(second), jax.tree.leaves(together()), strict=True):
        np.testing.assert_array_equal(
            np.reshape(some, (PROMPTS, 2, -1)), np.reshape(every, (PROMPTS, G, -1))[:, 3:]
        )


def test_the_opening_is_said_first_and_only_first():
    rollout = played(KEYS, kind=Whispering)
    task = GuessTheDigit(jnp.int32(3))
    secrets = jax.vmap(lambda key: task.reset(jax.random.fold_in(key, 0)).secret)(KEYS)
    np.testing.assert_array_equal(rollout.tokens[:, 0], 6 - secrets)
    assert (rollout.answer_start[:, 0] == 1).all()
    later = np.flatnonzero(rollout.played[:, 1])
    assert later.size
    for row in later:
        assert rollout.tokens[row, rollout.answer_start[row, 1] - 1] == 6  # of the reply
    # One token less in the opening, and one in each of two replies.
    assert rollout.tokens.shape[1] == played(KEYS).tokens.shape[1] - 3
    assert (rollout.prompt_size, played(KEYS).prompt_size) == (2, 3)


def test_what_was_dealt_is_kept():
    rollout = played(KEYS[:4], samples=2)
    task = GuessTheDigit(jnp.int32(3))
    dealt = jax.vmap(task.reset)(jax.vmap(lambda key: jax.random.fold_in(key, 0))(KEYS[:4]))
    for kept, first in zip(jax.tree.leaves(rollout.dealt), jax.tree.leaves(dealt), strict=True):
        np.testing.assert_array_equal(kept, np.repeat(first, 2, axis=0))


def test_the_same_hands_are_answered_afresh_by_other_keys():
    plain = played(KEYS)
    same, other = (played(KEYS, answer_keys=keys) for keys in (KEYS, KEYS[::-1]))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(plain.state.secret, other.state.secret)
    assert (plain.tokens != other.tokens).any(axis=1).mean() > 0.9


def test_refuses_no_samples():
    with pytest.raises(ValueError, match="turns=3 and samples=0 must be at least 1"):
        played(KEYS, samples=0)
