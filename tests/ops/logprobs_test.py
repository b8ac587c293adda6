import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from rlrazor.ops import logprobs
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")

token_logprobs = jax.jit(logprobs.token_logprobs)


def example(seed=0, shape=(3, 4), V=5):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(*shape, V)).astype(np.float32)
    return logits, rng.integers(V, size=shape).astype(np.int32)


def twin(logits, tokens):
    values = np.zeros(tokens.shape)
    for index in np.ndindex(tokens.shape):
        values[index] = log_softmax(logits[index].astype(np.float64))[tokens[index]]
    return values


def test_equals_scipy():
    logits, tokens = example()
    actual = token_logprobs(jnp.array(logits), jnp.array(tokens))
    np.testing.assert_allclose(actual, twin(logits, tokens), rtol=1e-5, atol=1e-6)


def test_gradient_equals_finite_differences():
    logits, tokens = example(shape=(2, 2))
    weights = np.random.default_rng(1).normal(size=tokens.shape).astype(np.float32)
    actual = jax.jit(jax.grad(lambda x: jnp.sum(weights * token_logprobs(x, tokens))))(logits)
    expected = numerical_gradient(lambda x: float(np.sum(weights * twin(x, tokens))), logits)
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_huge_logits_do_not_overflow():
    logits = jnp.array([1e30, 0.0, -1e30])
    value, gradient = jax.value_and_grad(token_logprobs)(logits, jnp.array(0))
    assert value == 0.0
    assert np.isfinite(gradient).all()


def test_forbidden_tokens_take_no_probability():
    logits = jnp.array([1.0, -jnp.inf, 2.0])
    for token, expected in [(0, log_softmax([1.0, 2.0])[0]), (1, -np.inf)]:
        value, gradient = jax.value_and_grad(token_logprobs)(logits, jnp.array(token))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("row", [[np.nan, 0, 1], [-np.inf] * 3, [np.inf, 0, 0]])
def test_garbage_row_is_nan_with_zero_gradient(row):
    logits = jnp.array([[0.0, 1.0, 2.0], row], jnp.float32)
    values = token_logprobs(logits, jnp.array([1, 0]))
    np.testing.assert_array_equal(np.isnan(values), [False, True])
    kept = jnp.array([True, False])
    gradient = jax.jit(
        jax.grad(lambda x: jnp.sum(jnp.where(kept, token_logprobs(x, jnp.array([1, 0])), 0.0)))
    )(logits)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1], np.zeros(3))
    assert np.abs(gradient[0]).max() > 0.1


@pytest.mark.parametrize("token", [-1, 3])
def test_token_outside_the_vocabulary_is_nan_with_zero_gradient(token):
    value, gradient = jax.value_and_grad(token_logprobs)(jnp.zeros(3), jnp.array(token))
    assert np.isnan(value)  # -1 would otherwise wrap to the last token
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_bfloat16_logits_are_normalised_in_float32():
    logits = jnp.zeros((1, 1000), jnp.bfloat16)
    actual = token_logprobs(logits, jnp.array([3]))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, [-np.log(1000)], rtol=1e-6)


def test_refuses_mismatched_shapes_and_float_tokens():
    with pytest.raises(AssertionError):
        token_logprobs(jnp.zeros((2, 3)), jnp.zeros((3,), jnp.int32))
    with pytest.raises(AssertionError):
        token_logprobs(jnp.zeros((2, 3)), jnp.zeros((2,)))


def test_vmapped_equals_solo_and_traces_once():
    logits, tokens = map(jnp.array, example())
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(logprobs.token_logprobs, n=1))
    solo = jnp.stack([traced(x, y) for x, y in zip(logits, tokens, strict=True)])
    np.testing.assert_allclose(jax.vmap(token_logprobs)(logits, tokens), solo, rtol=1e-6)
