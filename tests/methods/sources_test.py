"""Where rows come from: who is dealt what, whose answers are compared, what is learnt from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.methods import methods, sources
from rlrazor.methods.method import Demonstrations, Episodes, Pairs
from rlrazor.sampling.decode import Sampling
from tests.oracles import toy_policy
from tests.oracles.tiny_transformers import quick
from tests.oracles.toy_policy import ANSWER_TOKENS, END, ZERO

P, G = 6, 4
KEYS = jax.random.split(jax.random.key(0), P)
TASK, TEACHER = toy_policy.Sums(jnp.int32(3)), toy_policy.Teacher()
POLICY, PARAMS = toy_policy.policy(), toy_policy.make(0)


@functools.cache
def played(turns=3):
    """A rollout, its rows, and the same behind demonstrations."""

    @quick
    def play(keys):
        dealt = sources.deal(Episodes(), TASK, keys)
        rollout = POLICY.play(PARAMS, TASK, dealt, keys, Sampling(), turns=turns, samples=G)
        rows = sources.rows_of(rollout)
        shown = sources.demonstrated(TASK, TEACHER, rollout.dealt, keys, rows, end=END)
        return rollout, rows, shown

    return jax.device_get(play(KEYS))


def answers_of(rows, b):
    """The tokens of every turn that was played."""
    return [
        rows.tokens[b][rows.turns.of_token[b] == k].tolist()
        for k in np.flatnonzero(rows.turns.played[b])
    ]


def prompt_of(state):
    said = TASK.opening(state)
    return said.tokens[: said.length].tolist()


# Given answers. The keys are part of what reproduces a run: each is split in the same way for ever.


@functools.cache
def given():
    @quick
    def make(keys):
        states = [sources.deal(source, TASK, keys) for source in (Demonstrations(), Pairs())]
        return (
            sources.demonstrations(TASK, TEACHER, states[0], keys, end=END),
            sources.pairs(TASK, TEACHER, states[1], keys, end=END),
        )

    return jax.device_get(make(KEYS))


def check(rows, b, state, answer):
    prompt, (tokens, length) = prompt_of(state), answer
    expected = [*prompt, *tokens[:length].tolist(), END]
    assert rows.tokens[b].tolist() == expected + [0] * (rows.tokens.shape[1] - len(expected))
    assert rows.count[b] == len(expected)
    assert rows.prompt_count[b] == len(prompt)
    assert np.flatnonzero(rows.mask[b]).tolist() == list(range(len(prompt), len(expected)))
    return toy_policy.worth(state.digits, tokens[:length].tolist())


def test_demonstrations_are_the_experts_answers_to_examples_dealt_from_the_same_keys():
    rows, _ = given()
    for b, key in enumerate(KEYS):
        deal_key, answer_key = jax.random.split(key)
        state = TASK.reset(deal_key)
        assert check(rows, b, state, TEACHER.demonstrate(answer_key, state)) == 3
    assert rows.prompt_size == 3
    assert len({row.tobytes() for row in rows.tokens}) > P // 2


def test_pairs_are_a_right_answer_and_a_mistake_to_the_same_prompt():
    _, rows = given()
    wrong = []
    for b, key in enumerate(KEYS):
        deal_key, answer_key, wrong_key = jax.random.split(key, 3)
        state = TASK.reset(deal_key)
        assert check(rows, b, state, TEACHER.demonstrate(answer_key, state)) == 3
        wrong.append(check(rows.rejected, b, state, TEACHER.mistake(wrong_key, state)) != 3)
    assert sum(wrong) > P // 2


# Episodes.


def test_rows_of_episodes_are_what_was_played():
    rollout, rows, _ = played()
    lengths = set()
    for b in range(P * G):
        answers = answers_of(rows, b)
        digits = np.asarray(rollout.dealt.digits[b])
        earned = [toy_policy.worth(digits, answer) for answer in answers]
        assert rows.rewards[b] == earned[-1]  # an episode is worth its last answer
        assert rows.correct[b] == (3 in earned)
        assert rows.turns.rewards[b, : len(earned)].tolist() == earned
        assert rows.stopped[b] == all(answer[-1] == END for answer in answers)
        assert rows.mask[b].sum() == sum(map(len, answers))
        first = int(np.argmax(rows.mask[b]))
        assert rows.prompt_count[b] == rows.turns.start[b, 0] == first
        lengths.add(len(earned))
    assert lengths == {1, 2, 3}
    np.testing.assert_array_equal(rows.count, rollout.length)
    assert (rows.samples, rows.prompt_size) == (G, 3)
    groups = rollout.dealt.digits.reshape(P, G, 2)
    assert (groups == groups[:, :1]).all()


def test_only_the_answer_that_solved_an_episode_is_kept():
    _, rows, _ = played()
    kept = jax.device_get(sources.kept(rows, "correct"))
    assert 0 < rows.correct.sum() < P * G
    for b in range(P * G):
        solved = answers_of(rows, b)[-1] if rows.correct[b] else []
        assert rows.tokens[b][kept.mask[b]].tolist() == solved
    assert sources.kept(rows, "all") is rows
    judged = dataclasses.replace(rows, turns=None)  # elsewhere, of one turn
    mask = np.asarray(sources.kept(judged, "correct").mask)
    np.testing.assert_array_equal(mask, rows.mask & rows.correct[:, None])


def test_metrics_of_episodes_are_numpys():
    rollout, rows, _ = played()
    answers = [answer for b in range(P * G) for answer in answers_of(rows, b)]
    expected = {
        "reward": rows.rewards.mean(),
        "solved": rows.correct.mean(),
        "answer_truncated": np.mean([END not in answer for answer in answers]),
        "empty": np.mean(rows.mask.sum(1) <= 1),
        "groups_alike": np.mean([len(set(group)) == 1 for group in rows.rewards.reshape(P, G)]),
        "answer_tokens": np.mean([len(answer) for answer in answers]),
        "entropy_nats": -rows.behaviour_logprobs[rows.mask].mean(),
    }
    found = sources.metrics_of(rollout)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    assert 0 < found["answer_truncated"] < 1


def test_metrics_of_rows_judged_elsewhere_are_those_of_episodes_of_one_turn():
    rollout, rows, _ = played(turns=1)
    plain = dataclasses.replace(rows, turns=None)
    expected, found = sources.metrics_of(rollout), sources.metrics_of(plain)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_rows_that_nobody_judged_have_no_metrics():
    rows = dataclasses.replace(played()[1], correct=None)
    with pytest.raises(ValueError, match=r"rows\.correct is None"):
        sources.metrics_of(rows)


# Advantages.

REWARDS = np.random.default_rng(0).integers(0, 3, (7, 5)).astype(np.float32)
MEAN = REWARDS.mean(axis=1, keepdims=True)
CENTRED = REWARDS - MEAN
STANDARDISED = CENTRED / (REWARDS.std(axis=1, keepdims=True) + 1e-4)
OTHERS = np.array([[np.delete(row, i).mean() for i in range(5)] for row in REWARDS])
OF_METHOD = {
    "grpo": CENTRED, "grpo_kl": CENTRED, "rapo": CENTRED, "grpo_std": STANDARDISED,
    "dapo": STANDARDISED,
    "gspo": STANDARDISED, "rloo": REWARDS - OTHERS, "reinforce": REWARDS,
}  # fmt: skip


@pytest.mark.parametrize("name", methods.all_methods())
def test_every_method_has_the_advantage_of_its_paper(name):
    rows = dataclasses.replace(
        toy_policy.rows_of(np.zeros((35, 1), np.int32), np.ones((35, 1), bool)),
        rewards=jnp.asarray(REWARDS.ravel()), samples=5,
    )  # fmt: skip
    found = sources.with_advantages(methods.named(name), rows).advantages
    if name in OF_METHOD:
        np.testing.assert_allclose(found, OF_METHOD[name].ravel(), atol=1e-5)
    else:
        assert found is None


# SDFT.


def test_demonstrated_rows_are_prompt_demonstration_end_and_the_row():
    rollout, rows, shown = played()
    behind = shown.demonstrated
    for b in range(P * G):
        state = jax.tree.map(lambda leaf, b=b: jnp.asarray(leaf[b]), rollout.dealt)
        answer_key = jax.random.fold_in(KEYS[b // G], 2)
        tokens, length = TEACHER.demonstrate(answer_key, state)
        before = [*prompt_of(state), *tokens[:length].tolist(), END]
        whole = [*before, *rows.tokens[b, : rows.count[b]].tolist()]
        assert behind.tokens[b].tolist() == whole + [0] * (behind.tokens.shape[1] - len(whole))
        assert behind.count[b] == len(whole)
        assert behind.prompt_count[b] == len(before) + rows.prompt_count[b]
        places = len(before) + np.flatnonzero(rows.mask[b])
        assert np.flatnonzero(behind.mask[b]).tolist() == places.tolist()
    # What follows a prompt is as long as in the rows: the j-th scored token of both is the same.
    assert behind.samples == G
    sizes = [r.tokens.shape[1] - r.prompt_size for r in (rows, behind)]
    assert sizes[0] == sizes[1]
    assert rows.turns.played[:, 1].any()  # replies between answers are nobody's answers


def test_sampled_rows_are_what_the_policy_scores_alike():
    """A rollout's own probabilities, through the rows: the ratio is 1."""
    _, rows, _ = played()
    found = quick(lambda rows: POLICY.logprobs(POLICY.read(PARAMS, rows)))(rows)
    mask = rows.mask
    np.testing.assert_allclose(np.asarray(found)[mask], rows.behaviour_logprobs[mask], atol=1e-5)
    assert rows.tokens[mask].max() >= ZERO
    assert max(map(len, answers_of(rows, 0))) <= ANSWER_TOKENS
