"""Where the labels of supervised arms come from: teachers that are all right, yet differ.

All of them earn full reward; they differ in how far they lie from the base policy, which is the
independent variable of RL's Razor (Appendix B.3). Each is written for one example.
"""

import jax
import jax.numpy as jnp

from rlrazor.tasks.parity.verifier import correct_answers, judge


def fixed_digit(
    digit: jax.Array,  # i32[]
) -> jax.Array:  # i32[]
    """SFT-1: every even digit is labelled 0, every odd digit 1."""
    return digit % 2


def random_pair(
    key: jax.Array,
    digit: jax.Array,  # i32[]
) -> jax.Array:  # i32[]
    """SFT-2: even digits are labelled 0 or 4, odd digits 1 or 5, by a fair coin."""
    return digit % 2 + 4 * jax.random.bernoulli(key).astype(jnp.int32)


def wrong_pair(
    key: jax.Array,
    digit: jax.Array,  # i32[]
) -> jax.Array:  # i32[]
    """The same external teacher when it errs: SimPO's rejected answers (1 or 5 for even digits)."""
    return random_pair(key, digit + 1)


def uniform_correct(
    key: jax.Array,
    digit: jax.Array,  # i32[]
) -> jax.Array:  # i32[]
    """Uniform over the five digits of the right parity: the labels of pre-training."""
    return digit % 2 + 2 * jax.random.randint(key, (), 0, 5)


def oracle_log_probs(
    base_logits: jax.Array,  # f32[10]
    digit: jax.Array,  # i32[]
) -> jax.Array:  # f32[10], -inf on wrong answers
    """q*: the always-correct distribution closest to the base, base renormalised on the right set.

    It minimises KL(q||base) exactly (Lemma A.1). The paper prints KL(base||q), which is infinite
    for every always-correct q under a base of full support; on the right set both readings agree.
    """
    return jax.nn.log_softmax(jnp.where(correct_answers(digit), base_logits, -jnp.inf))


def first_correct(
    answers: jax.Array,  # i32[G] samples of some policy
    digit: jax.Array,  # i32[]
) -> tuple[jax.Array, jax.Array]:  # i32[] the first right answer, bool[] whether there was one
    """Rejection sampling with at most G tries, as the paper collects its SFT data."""
    right = judge(answers, digit).correct
    return answers[jnp.argmax(right)], jnp.any(right)
