"""Scores of a policy that answers with one of V classes."""

import jax
import jax.numpy as jnp

from rlrazor.types import Metrics


def class_scores(
    logits: jax.Array,  # f32[N, V]
    correct: jax.Array,  # bool[N, V] which answers are right
) -> Metrics:
    """`accuracy` of the greedy answer and `expected_accuracy` of a sampled one, over N inputs.

    The papers report the first; the second is the exact expectation that RL maximises.
    """
    greedy = jnp.take_along_axis(correct, jnp.argmax(logits, axis=-1)[:, None], axis=-1)
    mass = jnp.sum(jax.nn.softmax(logits) * correct, axis=-1)
    return {
        "accuracy": jnp.mean(greedy.astype(jnp.float32)),
        "expected_accuracy": jnp.mean(mass),
    }
