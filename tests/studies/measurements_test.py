"""What a policy is measured on: each number beside one that was worked out in plain Python."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from rlrazor.evaluation.pass_at import pass_at
from rlrazor.lines import unpack_outcomes
from rlrazor.methods.sources import rows_of
from rlrazor.runtime.mesh import compile_once
from rlrazor.sampling.decode import Sampling
from rlrazor.sampling.episodes import deal
from rlrazor.studies import measurements as measure
from rlrazor.studies.device import sampled, versions
from rlrazor.studies.measurements import in_batches
from tests.oracles import loss_twins, toy_policy, toy_study
from tests.oracles.toy_policy import ANSWER_TOKENS, END
from tests.oracles.toy_study import task, worth

pytestmark = pytest.mark.usefixtures("quick_compiles")

KEY = jax.random.key(7)
BASE, OTHER = toy_policy.make(0), toy_policy.make(1)
N = 8


@functools.cache
def measured(devices=1, at_once=4, rows_at_once=4):
    """Every number of OTHER, whose base is BASE."""
    policy = toy_study.policy(devices)
    found = {}
    for one in toy_study.measurements(
        policy, examples=N, at_once=at_once, rows_at_once=rows_at_once
    ):
        kept = None if one.keep is None else one.keep(BASE, KEY)
        found |= one.of(OTHER, BASE, kept, KEY)
    return found


def keys_of(part, count=N):
    return jax.random.split(jax.random.fold_in(KEY, part), count)


def greedy(params, state):
    """What the likeliest tokens say, one at a time by the twin."""
    said = task().opening(state)
    row, answer = said.tokens[: said.length].tolist(), []
    while len(answer) < ANSWER_TOKENS and END not in answer:
        answer.append(int(np.argmax(toy_policy.twin_distribution(params, [*row, *answer]))))
    return answer


def accuracy(shift, keys):
    states = deal(task(), keys)
    right = []
    for n in range(len(keys)):
        state = jax.tree.map(lambda leaf, n=n: leaf[n], states)
        right.append(worth(state.digits, greedy(OTHER, state), shift) == 3)
    return np.mean(right)


def test_success_is_that_of_judging_what_was_said():
    found, keys = measured(), keys_of(measure.EXAMPLES)
    for prefix, shift in (("new", 0), ("shift/sum", 1)):
        assert found[f"{prefix}/accuracy"] == accuracy(shift, keys)
        assert found[f"{prefix}/count"] == N


def test_prior_success_is_the_mean_over_the_suites():
    found = measured()
    for place, (name, shift) in enumerate((("one", 1), ("two", 2))):
        of = jax.random.fold_in(jax.random.fold_in(KEY, measure.QUESTIONS), place)
        assert found[f"prior/{name}/accuracy"] == accuracy(shift, jax.random.split(of, N))
    both = [found[f"prior/{name}/accuracy"] for name in ("one", "two")]
    assert found["prior/accuracy"] == np.mean(both)
    assert found["prior/count"] == 2 * N


@functools.cache
def samples(seed, keys_part):
    """Rows of one policy's own answers, sampled here."""
    keys = keys_of(keys_part)
    policy = toy_study.policy()
    play = compile_once(
        lambda params, keys: rows_of(sampled(params, policy, task(), keys, Sampling(), turns=1))
    )
    return jax.device_get(play(toy_policy.make(seed), keys))


def nats(first, second, rows):
    """KL(first || second) in float64: nats a sequence, and a token."""
    p, q = (
        toy_policy.twin_distributions(params, rows.tokens, rows.mask) for params in (first, second)
    )
    at = [loss_twins.kl(p[b, t], q[b, t]) for b, t in zip(*np.nonzero(rows.mask), strict=True)]
    return np.sum(at) / len(rows.tokens), np.mean(at)


def test_both_divergences_are_exact_and_have_their_directions():
    found = measured()
    for name, first, second, rows in (
        ("kl_base_policy_nats", BASE, OTHER, samples(0, measure.BASE_SAMPLES)),
        ("kl_policy_base_nats", OTHER, BASE, samples(1, measure.OWN_SAMPLES)),
    ):
        whole, per_token = nats(first, second, rows)
        np.testing.assert_allclose(found[f"new/{name}"], whole, rtol=1e-4)
        np.testing.assert_allclose(found[f"new/{name}_per_token"], per_token, rtol=1e-4)
    assert found["prior/kl_base_policy_nats"] > 0.1
    assert "prior/kl_policy_base_nats" not in found


def test_the_base_is_at_no_distance_from_itself():
    (one,) = [m for m in toy_study.world().measurements if m.keep and m.prefix == "new"]
    found = one.of(BASE, BASE, one.keep(BASE, KEY), KEY)
    assert len(found) == 4
    assert all(abs(value) < 1e-6 for value in found.values())


def test_divergence_does_not_depend_on_the_temperature_of_training():
    hot = toy_study.policy(temperature=2.0)
    one = measure.divergence(hot, "new", versions(task()), examples=N, own=False)
    found = one.of(OTHER, BASE, one.keep(BASE, KEY), KEY)
    np.testing.assert_allclose(
        found["new/kl_base_policy_nats"], measured()["new/kl_base_policy_nats"], rtol=1e-5
    )


HOWS = [
    {"at_once": 3, "rows_at_once": 1},
    {"at_once": 100, "rows_at_once": 100},
    {"devices": 4},
]


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_no_number_depends_on_how_many_at_once_or_on_devices(how):
    found = measured(**how)
    assert found.keys() == measured().keys()
    for name, value in measured().items():
        if isinstance(value, str):
            assert found[name] == value, name
        else:
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_which_questions_were_right_is_kept():
    found = measured()
    for prefix in ("new", "shift/sum", "prior/one", "prior/two"):
        right = unpack_outcomes(found[f"outcomes/{prefix}"])
        assert len(right) == N
        assert np.mean(right) == found[f"{prefix}/accuracy"]
    states = deal(task(), keys_of(measure.EXAMPLES))
    for n, right in enumerate(unpack_outcomes(found["outcomes/new"])):
        state = jax.tree.map(lambda leaf, n=n: leaf[n], states)
        assert right == (worth(state.digits, greedy(OTHER, state), 0) == 3)


@functools.cache
def several():
    """Turns and repeated answers of OTHER."""
    policy = toy_study.policy()
    turns = measure.within_turns(policy, "new", task(), examples=N, at_once=4, turns=(1, 2, 3))
    again = measure.passes(policy, "new", task(), examples=4, samples=6, at_once=12, ks=(1, 2, 6))
    return {**turns.of(OTHER, BASE, None, KEY), **again.of(OTHER, BASE, None, KEY)}


def test_more_turns_solve_more_and_one_turn_what_is_solved_at_once():
    within = [several()[f"new/success_within_{k}"] for k in (1, 2, 3)]
    assert within == sorted(within)
    assert within[0] == measured()["new/accuracy"]


def test_repeated_answers_are_counted_by_hand():
    keys = keys_of(measure.REPEATED, 4)
    policy = toy_study.policy()
    play = compile_once(
        lambda keys: rows_of(sampled(OTHER, policy, task(), keys, Sampling(), turns=1, samples=6))
    )
    rows = jax.device_get(play(keys))
    right = [
        worth(toy_study.prompt_digits(t), t[m]) == 3
        for t, m in zip(rows.tokens, rows.mask, strict=True)
    ]
    right = np.reshape(right, (4, 6))
    for k in (1, 2, 6):
        every = [
            [any(row[i] for i in some) for some in itertools.combinations(range(6), k)]
            for row in right
        ]
        np.testing.assert_allclose(several()[f"new/pass_at_{k}"], np.mean(every), rtol=1e-9)
    assert 0 < right.mean() < 1


def test_pass_at_k_is_that_of_all_subsets():
    n, correct = 6, np.array([0, 1, 2, 3, 5, 6])
    for k in range(1, n + 1):
        shares = [
            np.mean([min(some) < c for some in itertools.combinations(range(n), k)])
            for c in correct
        ]
        np.testing.assert_allclose(pass_at(correct, n, k), np.mean(shares), rtol=1e-12)


def test_batches_are_joined_and_what_fills_them_up_is_dropped():
    keys = jax.random.split(KEY, 7)
    shapes = []

    def fn(some):
        shapes.append(some.shape)
        return jax.vmap(jax.random.uniform)(some)

    found = in_batches(fn, keys, 3)
    np.testing.assert_array_equal(found, jax.vmap(jax.random.uniform)(keys))
    assert shapes == [(3,)] * 3


def test_what_stands_beside_and_when_is_said():
    policy = toy_study.policy()
    turns = measure.within_turns(
        policy, "new", task(), examples=4, turns=(1, 2), when="last", arms=("grpo",)
    )
    assert turns.beside == ("success_within_1", "success_within_2")
    assert (turns.when, turns.arms) == ("last", ("grpo",))
    again = dataclasses.replace(turns, when="every")
    assert again.when == "every"
