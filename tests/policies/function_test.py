"""A policy of one's own function, beside a twin that reads one token at a time in float64."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.ops.kl import kl
from rlrazor.policies.function import FunctionPolicy
from rlrazor.policies.policy import Policy
from rlrazor.runtime.mesh import make_mesh
from rlrazor.sampling.decode import Sampling
from rlrazor.sampling.episodes import deal
from tests.oracles import toy_policy
from tests.oracles.tiny_transformers import quick
from tests.oracles.toy_policy import ANSWER_TOKENS, END, OTHER, SPELLING, D, V

PARAMS = toy_policy.make(0)
KEYS = jax.random.split(jax.random.key(0), 5)
TASK = toy_policy.Sums(jnp.int32(3))
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (4, 9)).astype(np.int32)
MASK = np.zeros((4, 9), bool)
MASK[0, 2:5], MASK[1, 3:9], MASK[2, 1:2] = True, True, True  # the last row says nothing
PROMPT = np.array([2, 3, 1, 2], np.int32)


@functools.cache
def played(samples=2, turns=3, devices=1, **sampling):
    policy = toy_policy.policy(mesh=make_mesh(data=devices))

    @quick
    def play(params, task, keys):
        how = Sampling(**sampling)
        return policy.play(params, task, deal(task, keys), keys, how, turns=turns, samples=samples)

    return jax.device_get(play(PARAMS, TASK, KEYS))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_episodes_are_drawn_from_the_twins_distribution(temperature):
    rollout = played(temperature=temperature)
    assert len(rollout.tokens) == len(KEYS) * 2
    for row in range(len(rollout.tokens)):
        (places,) = np.nonzero(rollout.chosen[row])
        for t in places:
            log_policy = toy_policy.twin_distribution(PARAMS, rollout.tokens[row, :t], temperature)
            np.testing.assert_allclose(
                rollout.behaviour_logprobs[row, t], log_policy[rollout.tokens[row, t]], atol=1e-5
            )
    turns = rollout.played.sum(1)
    assert {1, 3} <= set(turns.tolist())
    said = [
        rollout.tokens[row][rollout.turn[row] == turn].tolist()
        for row in range(len(rollout.tokens)) for turn in range(turns[row])
    ]  # fmt: skip
    assert all(END not in answer[:-1] for answer in said)
    assert all(answer[-1] == END or len(answer) == ANSWER_TOKENS for answer in said)
    assert {answer[-1] == END for answer in said} == {True, False}


def test_devices_that_cannot_share_the_prompts_evenly_play_the_same():
    alone, shared = played(), played(devices=2)
    np.testing.assert_array_equal(alone.tokens, shared.tokens)
    np.testing.assert_array_equal(alone.turn, shared.turn)
    np.testing.assert_allclose(alone.behaviour_logprobs, shared.behaviour_logprobs, atol=1e-6)


def scored(policy, rows, params=PARAMS):
    return quick(lambda params, rows: policy.logprobs(policy.read(params, rows)))(params, rows)


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_twins(prompted, temperature):
    columns = {"prompt_count": PROMPT} if prompted else {}
    rows = toy_policy.rows_of(TOKENS, MASK, **columns)
    rows = dataclasses.replace(rows, prompt_size=3 if prompted else 0)
    found = np.asarray(scored(toy_policy.policy(temperature), rows))
    expected = toy_policy.twin_distributions(PARAMS, TOKENS, MASK, temperature)
    expected = toy_policy.chosen(expected, TOKENS)
    np.testing.assert_allclose(np.where(MASK, found, 0), np.where(MASK, expected, 0), atol=1e-5)
    place = np.arange(9)[None]
    start = PROMPT[:, None] if prompted else 1
    nowhere = (place < start) | (place >= np.asarray(rows.count)[:, None])
    assert not found[nowhere].any()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(0.0, 0, 1.0), (0.7, 0, 1.0), (1.3, 3, 1.0), (1.0, 0, 0.6), (0.8, 4, 0.7)],
)
def test_what_was_sampled_is_scored_as_it_was_sampled(temperature, top_k, top_p):
    """So a ratio is 1 before the first update; after it, it is finite and still has a gradient."""
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    rollout, policy = played(turns=1, **sampling), toy_policy.policy(**sampling)
    rows = toy_policy.rows_of(rollout.tokens, rollout.chosen)
    found = np.asarray(scored(policy, rows))
    mask = rollout.chosen
    np.testing.assert_allclose(found[mask], rollout.behaviour_logprobs[mask], atol=1e-5)
    moved = toy_policy.make(1)
    assert np.isfinite(scored(policy, rows, moved)).all()

    def total(params):
        return jnp.sum(policy.logprobs(policy.read(params, rows)))

    gradient = quick(jax.grad(total))(moved)
    chex.assert_tree_all_finite(gradient)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradient))


def test_two_readings_are_compared_token_by_token_behind_any_prompt():
    base = toy_policy.make(1)
    rows = toy_policy.rows_of(TOKENS, MASK, prompt_count=PROMPT)
    rows = dataclasses.replace(rows, prompt_size=3)
    shift = np.array([4, 2, 3, 1])
    longer, mask = np.full((4, 13), OTHER, np.int32), np.zeros((4, 13), bool)
    for b in range(4):
        longer[b, : shift[b]] = RNG.integers(2, V, shift[b])
        longer[b, shift[b] : shift[b] + 9] = TOKENS[b]
        mask[b, shift[b] : shift[b] + 9] = MASK[b]
    behind = toy_policy.rows_of(longer, mask, prompt_count=(PROMPT + shift).astype(np.int32))
    behind = dataclasses.replace(behind, prompt_size=7)
    policy = toy_policy.policy()

    @quick
    def compare(params, base):
        def both(log_policy, log_other, tokens):
            return {"kl": kl(log_policy, log_other), "said": tokens}

        return policy.over_vocabulary(both, policy.read(params, rows), policy.read(base, behind))

    found = compare(PARAMS, base)
    log_p = toy_policy.twin_distributions(PARAMS, TOKENS, MASK)
    log_q = toy_policy.twin_distributions(base, longer, mask)
    expected = np.zeros((4, 9))
    expected[MASK] = [
        np.sum(np.exp(p) * (p - q)) for p, q in zip(log_p[MASK], log_q[mask], strict=True)
    ]
    np.testing.assert_allclose(np.where(MASK, found["kl"], 0), expected, atol=1e-5)
    np.testing.assert_array_equal(found["said"][MASK], TOKENS[MASK])


def test_it_is_a_policy_whose_states_are_those_of_hidden_or_the_logits():
    policy: Policy = toy_policy.policy()
    rows = toy_policy.rows_of(TOKENS, MASK)
    reading = policy.read(PARAMS, rows)
    assert reading.states.shape[-1] == policy.width == D
    for b, t in zip(*np.nonzero(MASK), strict=True):
        (j,) = np.flatnonzero(np.asarray(reading.place[b]) == t)
        state = toy_policy.twin_state(PARAMS, TOKENS[b, :t])
        np.testing.assert_allclose(reading.states[b, j], state, atol=1e-5)

    def whole(params, tokens):
        return toy_policy.logits(params, toy_policy.hidden(params, tokens))

    kept = ("answer_tokens", "stops", "spelling", "answer_bytes")
    plain = FunctionPolicy(whole, **{name: getattr(policy, name) for name in kept})
    assert plain.width == plain.read(PARAMS, rows).states.shape[-1] == V
    np.testing.assert_allclose(scored(plain, rows), scored(policy, rows), atol=1e-5)
    assert plain.assemble(plain.initial(PARAMS, KEYS[0]), PARAMS) is PARAMS


@pytest.mark.parametrize("options", [{"width": 3}, {"hidden": toy_policy.hidden}])
def test_refuses_a_width_without_states_and_states_without_a_width(options):
    policy = toy_policy.policy()
    with pytest.raises(ValueError, match="must be the D of hidden's states"):
        FunctionPolicy(
            toy_policy.logits, answer_tokens=1, stops=policy.stops, spelling=SPELLING,
            answer_bytes=1, **options,
        )  # fmt: skip
