"""A random transformer plays GeneralPoints: sampling and scoring its transcripts agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.general_points.language import answer_logprobs
from rlrazor.models.cache import init_cache
from rlrazor.models.transformer import appender
from rlrazor.runtime.tokenizer import token_bytes
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.sampling.episodes import play
from tests.oracles import tiny_points, tiny_transformers

EPISODES, TURNS, ANSWER = 12, 3, 8


@pytest.fixture(scope="module")
def model():
    size = tiny_points.tokenizer().get_vocab_size()
    return tiny_transformers.make(dataclasses.replace(tiny_transformers.PLAIN, vocabulary=size))


@pytest.fixture(scope="module")
def rollout(model):
    model, params = model
    task = tiny_points.make()
    table, lengths = map(jnp.asarray, token_bytes(tiny_points.tokenizer()))
    slots = task.prompts.size + (TURNS - 1) * task.words_size + TURNS * ANSWER

    @tiny_transformers.quick
    def run(params, keys):
        cache = init_cache(model.config, EPISODES, slots, jnp.float32)
        return play(
            task,
            appender(model, params),
            cache,
            keys,
            Sampling(),
            make_stops([[2]]),
            (table, lengths),
            turns=TURNS,
            answer_size=ANSWER,
            answer_bytes=64,
            say=task.words,
        )

    return run(params, jax.random.split(jax.random.key(0), EPISODES))


def test_behaviour_logprobs_equal_those_of_scoring_the_transcript(model, rollout):
    model, params = model
    score = tiny_transformers.quick(lambda p, tokens: answer_logprobs(model, p, tokens))
    scored = np.asarray(score(params, rollout.tokens))
    chosen = np.asarray(rollout.chosen)
    assert rollout.played.all()
    assert chosen.sum() >= EPISODES * TURNS
    np.testing.assert_allclose(
        scored[chosen], np.asarray(rollout.behaviour_logprobs)[chosen], atol=1e-4
    )


def test_the_transcript_is_prompt_answer_words_answer(rollout):
    task, decode = tiny_points.make(), tiny_points.vocabulary().decode
    for row in range(EPISODES):
        tokens, length = np.asarray(rollout.tokens[row]), int(rollout.length[row])
        starts = rollout.answer_start[row].tolist()
        prompt = decode(tokens[: starts[0]].tolist())
        assert "24" in prompt
        assert prompt.endswith("\n")
        said = [
            [t for t, c in zip(tokens[a:b], rollout.chosen[row, a:b], strict=True) if not c]
            for a, b in zip(starts, [*starts[1:], length], strict=True)
        ]
        assert said[-1] == []
        for words in said[:-1]:
            assert decode(list(map(int, words))).startswith("\nYou failed this trial because")
    assert task.words_size < task.prompts.size


def test_a_random_model_solves_nothing_and_every_failure_is_named(rollout):
    assert not rollout.verdict.correct.any()
    named = np.any([np.asarray(f) for f in rollout.verdict.failures.values()], axis=0)
    assert named.all()
    assert np.asarray(rollout.state.truncated).all()
