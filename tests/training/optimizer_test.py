import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlrazor.training import optimizer
from rlrazor.training.optimizer import adamw, warmup_schedule, with_masters


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


MOMENTS = [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")]


def steps(tx, params, gradients):
    """Parameters and state after a step by each gradient."""

    def step(carry, gradient):
        params, state = carry
        updates, state = tx.update({"w": gradient}, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), gradients)[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("mu_dtype", "nu_dtype"), MOMENTS)
def test_moments_are_kept_as_asked_and_nearly_what_they_were(dtype, mu_dtype, nu_dtype):
    """Whatever the parameters are; gradients in bf16 are squared and averaged in f32."""
    params = {"w": jnp.asarray(X0, dtype)}
    tx = adamw(
        lambda step: 0.1, weight_decay=0.1, clip_by_global_norm=1.0, mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )  # fmt: skip
    exact = adamw(lambda step: 0.1, weight_decay=0.1, clip_by_global_norm=1.0)
    _, state = steps(tx, params, GRADIENTS.astype(jnp.bfloat16))
    _, wide = steps(exact, {"w": X0}, GRADIENTS.astype(jnp.bfloat16).astype(np.float32))
    for name, asked in (("mu", mu_dtype), ("nu", nu_dtype)):
        kept, was = optax.tree.get(state, name)["w"], optax.tree.get(wide, name)["w"]
        assert kept.dtype == asked
        error = np.abs(np.asarray(kept, np.float32) / was - 1).max()
        assert error < (1e-6 if asked == "float32" else 0.03)
        assert asked == "float32" or error > 1e-6  # the knob is alive


def test_a_second_moment_in_bfloat16_does_not_stand_still():
    """It follows a gradient that becomes a tenth; rounded to the nearest, it would stay."""
    gradients = np.concatenate([np.ones((5, 64)), np.full((2000, 64), 0.1)]).astype(np.float32)
    tx = adamw(lambda step: 0.0, weight_decay=0.0, clip_by_global_norm=math.inf,
               nu_dtype="bfloat16")  # fmt: skip
    _, state = steps(tx, {"w": jnp.zeros(64)}, gradients)
    nu = np.asarray(optax.tree.get(state, "nu")["w"], np.float64)
    expected = 0.01 + (1 - 0.999**5 - 0.01) * 0.999**2000
    assert abs(nu.mean() / expected - 1) < 0.02
    assert len(set(nu)) > 1  # every weight draws for itself


def test_rounding_at_random_is_right_on_average_and_keeps_what_is_no_number():
    between = np.array(
        [1 + 2**-9, -(1 + 2**-9), 3e-39, 0.0, 1.0], np.float32
    )  # a quarter of a step
    odd = np.array([0x7FFFFFFF, 0x7F800000, 0xFF800000], np.uint32).view(np.float32)
    x = np.concatenate([np.repeat(between, 4096), odd])
    drawn = optimizer._round_at_random(jax.random.key(0), jnp.asarray(x))
    assert drawn.dtype == jnp.bfloat16
    drawn = np.asarray(drawn, np.float32)
    many = drawn[:-3].reshape(5, 4096)
    np.testing.assert_allclose(many.mean(1), between, rtol=3e-4)
    assert [len(set(row)) for row in many] == [2, 2, 2, 1, 1]
    np.testing.assert_array_equal(drawn[-3:], [np.nan, np.inf, -np.inf])


def test_masters_keep_what_coarse_parameters_lose():
    """Steps of a thousandth: bf16 alone does not move at all, its masters do, and it with them."""
    params, gradients = {"w": jnp.ones(3, jnp.bfloat16)}, np.ones((20, 3), np.float32)
    tx = adamw(lambda step: 1e-3, weight_decay=0.0, clip_by_global_norm=math.inf)
    alone, _ = steps(tx, params, gradients)
    np.testing.assert_array_equal(alone["w"].astype(np.float32), 1.0)
    exact, _ = steps(tx, {"w": jnp.ones(3)}, gradients)
    helped, state = steps(with_masters(tx), params, gradients)
    np.testing.assert_array_equal(state.masters["w"], exact["w"])
    assert helped["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(helped["w"], exact["w"].astype(jnp.bfloat16))
    np.testing.assert_allclose(exact["w"], 1 - 20e-3, atol=1e-4)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="nu_dtype must be 'float32' or 'bfloat16', got 'int8'"):
        adamw(lambda step: 0.1, weight_decay=0, clip_by_global_norm=1, nu_dtype="int8")  # type: ignore
