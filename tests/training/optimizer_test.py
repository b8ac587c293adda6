import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlrazor.training.optimizer import adamw, warmup_schedule


def rates(peak, warmup_steps, total_steps, cosine, steps):
    schedule = warmup_schedule(
        peak, warmup_steps=warmup_steps, total_steps=total_steps, cosine=cosine
    )
    return np.asarray(jax.vmap(schedule)(jnp.arange(32)))[:steps]


def test_constant_schedule_by_hand():
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(rates(1.0, 4, 6, False, 7), expected, rtol=1e-6)


def test_cosine_schedule_by_hand():
    decay = [0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(5)]
    expected = [1.0, 2.0, *(2 * d for d in decay), 0.0, 0.0]  # after the end it stays at zero
    np.testing.assert_allclose(rates(2.0, 2, 6, True, 9), expected, rtol=1e-6, atol=1e-7)


def test_cosine_ends_at_exactly_zero():
    """Else a base that waits for a stronger one would still move."""
    for total in (3, 17, 30):
        assert rates(1e-3, 0, total, True, 32)[total:].max() == 0.0


@pytest.mark.parametrize(("warmup", "total"), [(0, 5), (5, 5), (8, 5), (0, 0)])
def test_odd_lengths_give_finite_rates_below_the_peak(warmup, total):
    for cosine in (False, True):
        got = rates(0.5, warmup, total, cosine, 12)
        assert np.all((got >= 0) & (got <= 0.5))


def test_no_warmup_starts_at_the_peak():
    assert rates(0.5, 0, 9, False, 1)[0] == 0.5


def test_schedule_hyperparameters_stack_in_one_trace():
    def two_rates(peak, warmup, total, cosine):
        schedule = warmup_schedule(peak, warmup_steps=warmup, total_steps=total, cosine=cosine)
        return schedule(1), schedule(9)

    hyperparameters = [(1.0, 4, 20, False), (2.0, 4, 20, False), (1.0, 8, 20, False)]
    hyperparameters += [(1.0, 4, 40, True), (1.0, 4, 20, True)]
    stacked = [jnp.array(column) for column in zip(*hyperparameters, strict=True)]
    chex.clear_trace_counter()
    got = jax.jit(jax.vmap(chex.assert_max_traces(two_rates, n=1)))(*stacked)
    for row, one in enumerate(hyperparameters):
        np.testing.assert_allclose([g[row] for g in got], two_rates(*one), rtol=1e-6)
    assert len(set(zip(*np.asarray(got).tolist(), strict=True))) == len(hyperparameters)


class AdamWTwin:
    """AdamW (arXiv 1711.05101) with the clip before it, in float64, on one array."""

    def __init__(self, rate, weight_decay, clip):
        self.rate, self.weight_decay, self.clip = rate, weight_decay, clip
        self.m = self.v = 0.0
        self.t = 0

    def step(self, x, gradient):
        gradient = np.asarray(gradient, np.float64)
        norm = np.sqrt(np.sum(gradient**2))
        gradient = gradient * min(1.0, self.clip / norm)
        rate = self.rate(self.t)
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return x - rate * (m / (np.sqrt(v) + 1e-8) + self.weight_decay * x)


def follow(weight_decay, clip, gradients, x0):
    tx = adamw(lambda t: 0.1 / (t + 1), weight_decay=weight_decay, clip_by_global_norm=clip)

    def step(carry, gradient):
        x, state = carry
        updates, state = tx.update(gradient, state, x)
        return (optax.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (jnp.asarray(x0), tx.init(jnp.asarray(x0))), gradients)
    return np.asarray(x)


# Of alternating size, so that a clip at 1 acts on every second one.
GRADIENTS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
GRADIENTS *= np.float32([[9.0], [0.1]] * 3)
X0 = np.linspace(-2, 2, 5, dtype=np.float32)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("clip", [1.0, math.inf])
def test_adamw_matches_its_equations(weight_decay, clip):
    twin, x = AdamWTwin(lambda t: 0.1 / (t + 1), weight_decay, clip), X0.astype(np.float64)
    for gradient in GRADIENTS:
        x = twin.step(x, gradient)
    np.testing.assert_allclose(follow(weight_decay, clip, GRADIENTS, X0), x, rtol=2e-5)


def test_weight_decay_and_clip_are_alive():
    results = [follow(w, c, GRADIENTS, X0) for w in (0.0, 0.3) for c in (1.0, 2.0, math.inf)]
    for i, one in enumerate(results):
        assert all(np.abs(one - other).max() > 1e-3 for other in results[:i])


def test_weight_decay_alone_shrinks_the_weights():
    got = follow(0.5, math.inf, np.zeros((1, 5), np.float32), X0)
    np.testing.assert_allclose(got, X0 * (1 - 0.1 * 0.5), rtol=1e-6)


def test_gradients_below_the_clip_are_left_alone():
    small = np.float32(0.1) * GRADIENTS[1::2]
    np.testing.assert_array_equal(follow(0.1, 1.0, small, X0), follow(0.1, math.inf, small, X0))


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 30.0])
def test_clipping_equals_optax(scale):
    gradient = {"a": scale * jnp.arange(6.0).reshape(2, 3), "b": -scale * jnp.ones(4)}
    params = jax.tree.map(jnp.ones_like, gradient)
    rule = {"weight_decay": 0.1}
    ours = adamw(lambda step: 0.5, clip_by_global_norm=1.5, **rule)
    theirs = optax.chain(optax.clip_by_global_norm(1.5), optax.adamw(0.5, **rule))
    states = [tx.init(params) for tx in (ours, theirs)]
    for _ in range(3):
        (got, first), (expected, second) = (
            tx.update(gradient, state, params)
            for tx, state in zip((ours, theirs), states, strict=True)
        )
        states = [first, second]
        chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-7)
