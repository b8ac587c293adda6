"""Parity as a bandit: any digit of the image's parity is right (RL's Razor, Section 3)."""

import jax
import jax.numpy as jnp

from rlrazor.tasks.protocol import Verdict

CLASSES = 10


def judge(
    answer: jax.Array,  # i32[] digit the policy names; outside 0..9 is wrong
    digit: jax.Array,  # i32[] digit in the image
) -> Verdict:
    """Reward 1 where the answer is a digit of the right parity, else 0."""
    not_a_digit = (answer < 0) | (answer >= CLASSES)
    wrong_parity = ~not_a_digit & (answer % 2 != digit % 2)
    correct = ~not_a_digit & ~wrong_parity
    return Verdict(
        reward=correct.astype(jnp.float32),
        correct=correct,
        failures={"not_a_digit": not_a_digit, "wrong_parity": wrong_parity},
    )


def correct_answers(
    digit: jax.Array,  # i32[]
) -> jax.Array:  # bool[10]
    """Which of the ten answers are right: five of them, always."""
    return jnp.arange(CLASSES) % 2 == digit % 2
