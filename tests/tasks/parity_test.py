import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from rlrazor.runtime.mesh import compile_once
from rlrazor.tasks.parity.labels import (
    first_correct,
    fixed_digit,
    oracle_log_probs,
    random_pair,
    uniform_correct,
    wrong_pair,
)
from rlrazor.tasks.parity.verifier import CLASSES, correct_answers, judge

DIGITS = jnp.arange(CLASSES)
ANSWERS = [-(2**31), -2, -1, *range(CLASSES), 10, 11, 2**31 - 1]


def test_judge_matches_plain_python_on_every_answer_and_digit():
    pairs = np.array(list(itertools.product(ANSWERS, range(CLASSES))), np.int32)
    verdicts = compile_once(jax.vmap(judge))(pairs[:, 0], pairs[:, 1])
    for row, (answer, digit) in enumerate(pairs.tolist()):
        got = jax.tree.map(lambda leaf, row=row: leaf[row].item(), verdicts)
        in_range = answer in range(10)
        right = in_range and (answer - digit) % 2 == 0
        assert (got.correct, got.reward) == (right, float(right))
        assert got.failures == {
            "not_a_digit": not in_range,
            "wrong_parity": in_range and not right,
        }
    chex.assert_type([verdicts.reward, verdicts.correct], [jnp.float32, bool])


def test_every_wrong_answer_has_exactly_one_reason():
    pairs = np.array(list(itertools.product(ANSWERS, range(CLASSES))), np.int32)
    verdicts = jax.vmap(judge)(pairs[:, 0], pairs[:, 1])
    reasons = sum(flag.astype(int) for flag in verdicts.failures.values())
    np.testing.assert_array_equal(reasons, 1 - verdicts.correct)


def test_correct_answers_are_those_that_the_judge_accepts():
    for digit in range(CLASSES):
        accepted = [bool(judge(jnp.int32(a), jnp.int32(digit)).correct) for a in range(CLASSES)]
        assert correct_answers(jnp.int32(digit)).tolist() == accepted
        assert sum(accepted) == 5


KEYS = jax.random.split(jax.random.key(0), 400)
# By enumeration of many keys: the support of each random teacher for even and for odd digits.
SUPPORTS = {
    random_pair: ({0, 4}, {1, 5}),
    wrong_pair: ({1, 5}, {0, 4}),
    uniform_correct: ({0, 2, 4, 6, 8}, {1, 3, 5, 7, 9}),
}


@pytest.mark.parametrize("teacher", SUPPORTS, ids=lambda teacher: teacher.__name__)
def test_random_teachers_are_uniform_on_their_answers(teacher):
    labels = jax.vmap(lambda digit: jax.vmap(lambda key: teacher(key, digit))(KEYS))(DIGITS)
    chex.assert_type(labels, jnp.int32)
    for digit in range(CLASSES):
        values, counts = np.unique(labels[digit], return_counts=True)
        assert set(values.tolist()) == SUPPORTS[teacher][digit % 2]
        expected = len(KEYS) / len(values)
        assert np.sum((counts - expected) ** 2 / expected) < 20  # chi-squared, at most 4 degrees


def test_fixed_digit_is_the_parity_itself():
    assert jax.vmap(fixed_digit)(DIGITS).tolist() == [0, 1] * 5


LOGITS = np.random.default_rng(0).normal(size=(CLASSES, CLASSES)).astype(np.float32) * 3


def test_oracle_is_the_base_renormalised_on_the_right_answers():
    got = np.asarray(jax.vmap(oracle_log_probs)(LOGITS, DIGITS))
    base = np.exp(log_softmax(LOGITS.astype(np.float64), axis=-1))
    right = np.arange(10)[None] % 2 == np.arange(10)[:, None] % 2
    kept = np.where(right, base, 0)
    np.testing.assert_allclose(np.exp(got), kept / kept.sum(-1, keepdims=True), rtol=1e-5)
    assert np.all(np.isneginf(got[~right]))


def test_oracle_is_the_closest_of_all_right_policies():
    """KL(q||base) = -log base(right); no other always-right q is nearer, none of 1,000."""
    rng = np.random.default_rng(1)
    for digit in (0, 7):
        log_base = log_softmax(LOGITS[digit].astype(np.float64))
        right = np.arange(10) % 2 == digit % 2
        oracle = np.exp(np.asarray(oracle_log_probs(LOGITS[digit], digit), np.float64))
        least = rel_entr(oracle, np.exp(log_base)).sum()
        np.testing.assert_allclose(least, -np.log(np.exp(log_base[right]).sum()), rtol=1e-5)
        others = np.zeros((1000, 10))
        others[:, right] = rng.dirichlet(np.ones(5), size=1000)
        assert rel_entr(others, np.exp(log_base)).sum(-1).min() > least


def test_oracle_keeps_an_impossible_answer_impossible():
    logits = LOGITS[2].copy()
    logits[4] = -np.inf
    got = np.asarray(oracle_log_probs(logits, 2))
    assert np.isneginf(got[4])
    np.testing.assert_allclose(np.exp(got).sum(), 1, rtol=1e-6)


def test_first_correct_matches_a_loop_on_all_triples():
    triples = np.array(list(itertools.product([0, 1, 4, 7, -1], repeat=3)), np.int32)
    for digit in (2, 3):
        labels, found = map(np.asarray, jax.vmap(first_correct, in_axes=(0, None))(triples, digit))
        for answers, label, any_right in zip(triples.tolist(), labels, found, strict=True):
            right = [a for a in answers if a in range(10) and a % 2 == digit % 2]
            assert bool(any_right) == bool(right)
            assert int(label) == (right[0] if right else answers[0])


def test_teachers_trace_once():
    chex.clear_trace_counter()
    for teacher in SUPPORTS:
        fn = compile_once(chex.assert_max_traces(teacher, n=1))
        for n in range(3):
            fn(KEYS[n], jnp.int32(n))
