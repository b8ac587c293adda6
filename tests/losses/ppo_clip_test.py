import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.policy_gradient import policy_gradient
from rlrazor.losses.ppo_clip import ppo_clip
from rlrazor.ops.aggregate import scaled_sum, sequence_mean, token_mean
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

AGGREGATES = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "scaled_sum": functools.partial(scaled_sum, length=5.0),
}


@functools.partial(jax.jit, static_argnames="aggregate")
def compiled(logprobs, behaviour, advantages, mask, low, high, aggregate):
    def loss(x):
        return ppo_clip(
            x,
            behaviour,
            advantages,
            mask,
            clip_low=low,
            clip_high=high,
            aggregate=AGGREGATES[aggregate],
        )

    return jax.value_and_grad(loss, has_aux=True)(logprobs)


def run(logprobs, behaviour, advantages, mask, low=0.2, high=0.3, aggregate="token_mean"):
    return compiled(logprobs, behaviour, advantages, mask, low, high, aggregate=aggregate)


def example():
    """Ratios from far below to far above the bounds, none on them; one row is padding."""
    rng = np.random.default_rng(0)
    logprobs = -rng.exponential(size=(4, 3)).astype(np.float32)
    behaviour = logprobs + rng.uniform(-0.6, 0.6, size=(4, 3)).astype(np.float32)
    advantages = rng.normal(size=(4, 3)).astype(np.float32)
    return logprobs, behaviour, advantages, np.arange(3) < np.array([[3], [1], [2], [0]])


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_value_and_gradient_equal_the_twin(aggregate):
    logprobs, *constants = example()
    twin = functools.partial(
        loss_twins.ppo_clip, low=0.2, high=0.3, aggregate=aggregate, length=5.0
    )
    (value, metrics), gradient = run(logprobs, *constants, aggregate=aggregate)
    np.testing.assert_allclose(value, twin(logprobs, *constants), rtol=1e-5)
    expected = numerical_gradient(lambda x: twin(x, *constants), logprobs)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    behaviour, advantages, mask = constants
    ratio = np.exp(logprobs - behaviour)
    assert metrics["tokens"] == 6
    np.testing.assert_allclose(metrics["ratio"], ratio[mask].sum(), rtol=1e-6)
    assert metrics["clipped_low"] == np.sum(mask & (ratio < 0.8) & (advantages < 0))
    assert metrics["clipped_high"] == np.sum(mask & (ratio > 1.3) & (advantages > 0))


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 2.0, -2.4, -2.4),  # inside: no clip acts
        (0.9, -2.0, 1.8, 1.8),
        (1.5, 2.0, -2.6, 0.0),  # good, and likelier than 1.3 already
        (0.5, -2.0, 1.6, 0.0),  # bad, and rarer than 0.8 already
        (0.5, 2.0, -1.0, -1.0),  # good, yet rarer: must come back
        (1.5, -2.0, 3.0, 3.0),  # bad, yet likelier: must come back
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_by_hand_clips_only_what_would_go_further(ratio, advantage, value, slope):
    arrays = (np.float32([[x]]) for x in (np.log(ratio), 0.0, advantage))
    (actual, _), gradient = run(*arrays, np.ones((1, 1), bool))
    np.testing.assert_allclose(actual, value, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[slope]], rtol=1e-6)


def test_at_ratio_one_the_gradient_is_the_policy_gradients():
    logprobs, _, _, mask = example()
    advantages = np.float32([1.0, -0.5, 2.0, 3.0])
    spread = np.repeat(advantages[:, None], 3, axis=1)
    _, gradient = run(logprobs, logprobs, spread, mask)
    expected = jax.jit(jax.grad(lambda x: policy_gradient(x, advantages, mask)[0]))(logprobs)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_every_knob_is_alive():
    (plain, _), gradient = run(*example())
    for knobs in [{"low": 0.5}, {"high": 0.9}, {"aggregate": "sequence_mean"}]:
        (value, _), moved = run(*example(), **knobs)
        assert abs(value - plain) > 1e-3
        assert np.abs(moved - gradient).max() > 1e-3


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_extreme_ratios_keep_gradients_finite(advantage):
    logprobs = np.float32([[-np.inf, 0.0]])
    behaviour, advantages = np.float32([[-1.0, -200.0]]), np.full((1, 2), advantage, np.float32)
    (value, _), gradient = run(logprobs, behaviour, advantages, np.ones((1, 2), bool))
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


def test_nan_that_counts_shows():
    logprobs, *constants = example()
    logprobs[0, 0] = np.nan
    (value, _), _ = run(logprobs, *constants)
    assert np.isnan(value)


def test_hyperparameters_have_no_defaults():
    with pytest.raises(TypeError, match=r"clip_low.*clip_high.*aggregate"):
        ppo_clip(*map(jnp.array, example()))  # pyright: ignore[reportCallIssue]
