import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from rlrazor.ops.chunked import in_chunks
from rlrazor.ops.entropy import entropy
from rlrazor.ops.kl import kl
from rlrazor.ops.logprobs import token_logprobs
from tests.oracles.tiny_transformers import quick

pytestmark = pytest.mark.usefixtures("strict_dtypes")

B, T, D, V = 2, 7, 3, 11
RNG = np.random.default_rng(0)
HIDDEN, OTHER = RNG.normal(size=(2, B, T, D)).astype(np.float32)
KERNEL = RNG.normal(size=(D, V)).astype(np.float32)
TOKENS = RNG.integers(0, V, (B, T)).astype(np.int32)
WEIGHTS = RNG.normal(size=(3, B, T)).astype(np.float32)


def judge(logits, other, tokens):
    """Everything that a run asks of a vocabulary."""
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    return token_logprobs(logits, tokens), entropy(log_p), kl(log_p, log_q)


def whole(kernel, hidden, other):
    return judge(hidden @ kernel, other @ kernel, TOKENS)


def chunked(kernel, hidden, other, size):
    def chunk(hidden, other, tokens):
        return judge(hidden @ kernel, other @ kernel, tokens)

    return in_chunks(chunk, hidden, other, TOKENS, size=size)


def weighted(found):
    return sum(jnp.sum(weight * one) for weight, one in zip(WEIGHTS, found, strict=True))


@pytest.mark.parametrize("size", [3, 100])
def test_values_and_gradients_are_those_of_the_whole(size):
    """Chunks that do not divide the row, and one that is longer."""
    arguments = KERNEL, HIDDEN, OTHER

    @quick
    def both(*arguments):
        cut = lambda *args: weighted(chunked(*args, size))  # noqa: E731
        grads = [jax.grad(f, (0, 1, 2)) for f in (lambda *args: weighted(whole(*args)), cut)]
        return whole(*arguments), chunked(*arguments, size), *(g(*arguments) for g in grads)

    expected, found, gradient, cut_gradient = both(*arguments)
    for one, other in zip((*expected, *gradient), (*found, *cut_gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_whole_is_never_in_memory():
    """Neither for the values nor for the gradient, which does not keep what it can compute."""
    B, T, D, V, size = 4, 512, 8, 512, 8
    hidden = jax.ShapeDtypeStruct((B, T, D), jnp.float32)
    kernel = jax.ShapeDtypeStruct((D, V), jnp.float32)
    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)

    def loss(kernel, hidden, tokens, size):
        chunk = lambda hidden, tokens: token_logprobs(hidden @ kernel, tokens)  # noqa: E731
        return jnp.sum(in_chunks(chunk, hidden, tokens, size=size))

    def compiled(size):
        fn = jax.value_and_grad(lambda *args: loss(*args, size), (0, 1))
        return jax.jit(fn).lower(kernel, hidden, tokens).compile()

    def widest(compiled):  # elements of the largest array that the program names
        shapes = re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
        return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)

    cut, whole = compiled(size), compiled(T)
    assert widest(cut) == B * size * V
    assert widest(whole) == B * T * V
    memory = [found.memory_analysis().temp_size_in_bytes for found in (cut, whole)]
    assert memory[0] < 4 * B * T * V / 4 < memory[1]


@pytest.mark.parametrize(("size", "again"), [(3, True), (T, False), (100, False)])
def test_rows_of_one_chunk_are_not_computed_again(size, again):
    jaxpr = jax.make_jaxpr(lambda x: in_chunks(jnp.sin, x, size=size))(HIDDEN)
    assert ("remat" in str(jaxpr) or "checkpoint" in str(jaxpr)) == again


def test_padding_is_neither_seen_nor_differentiated():
    """Zeros would divide by zero."""

    def total(x):
        return jnp.sum(in_chunks(lambda x: 1 / x, x, size=4))

    value, gradient = jax.value_and_grad(total)(HIDDEN)
    np.testing.assert_allclose(value, np.sum(1 / HIDDEN), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="size=0 must be at least 1"):
        in_chunks(jnp.sin, HIDDEN, size=0)
    with pytest.raises(AssertionError):
        in_chunks(jnp.add, HIDDEN, HIDDEN[:, 1:], size=2)


def test_entropy_equals_scipy_and_knows_the_impossible():
    log_p = jax.nn.log_softmax(jnp.concatenate([HIDDEN, np.full((B, T, 1), -np.inf, "f4")], -1))
    np.testing.assert_allclose(entropy(log_p), scipy_entropy(np.exp(log_p), axis=-1), rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(entropy(x)))(log_p)).all()
    assert np.isnan(entropy(jnp.full((2,), jnp.nan)))
    assert entropy(jnp.zeros((1,))) == 0
