import functools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.evaluation.fisher import diagonal_fisher

N, D, W, V = 7, 4, 5, 3


@functools.partial(jax.jit, static_argnums=(0, 3))
def fisher_of(log_probs_fn, params, inputs, chunk):
    return diagonal_fisher(log_probs_fn, params, inputs, chunk=chunk)


def log_probs(params, x):  # f32[B, D] -> f32[B, V]
    hidden = jnp.tanh(x @ params["w"])
    return jax.nn.log_softmax(hidden @ params["v"] + jnp.broadcast_to(params["b"], (len(x), V)))


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    shapes = {"w": (D, W), "v": (W, V), "b": (V,)}
    return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


@pytest.fixture
def inputs():
    return np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)


def slow_fisher(params, inputs):
    """Back-propagation by hand, in float64, one example and one class at a time."""
    w, v, b = (np.asarray(params[name], np.float64) for name in ("w", "v", "b"))
    total = {"w": np.zeros_like(w), "v": np.zeros_like(v), "b": np.zeros_like(b)}
    for x in np.asarray(inputs, np.float64):
        hidden = np.tanh(x @ w)
        logits = hidden @ v + b
        pi = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        for y in range(V):
            d_logits = np.eye(V)[y] - pi
            d_pre = (v @ d_logits) * (1 - hidden**2)
            total["b"] += pi[y] * d_logits**2
            total["v"] += pi[y] * np.outer(hidden, d_logits) ** 2
            total["w"] += pi[y] * np.outer(x, d_pre) ** 2
    return {name: value / len(inputs) for name, value in total.items()}


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_matches_the_loop_for_any_chunk(params, inputs, chunk):
    got = fisher_of(log_probs, params, inputs, chunk)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, params)
    for name, value in slow_fisher(params, inputs).items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=1e-7, err_msg=name)


def test_of_logits_is_the_variance_of_the_multinomial():
    """For pi = softmax(w) the diagonal is known: pi (1 - pi)."""
    w = np.float32([0.5, -1.0, 2.0])
    constant = lambda w, x: jax.nn.log_softmax(jnp.broadcast_to(w, (len(x), 3)))  # noqa: E731
    got = fisher_of(constant, w, np.zeros((5, 1), np.float32), 2)
    pi = np.exp(w) / np.exp(w).sum()
    np.testing.assert_allclose(got, pi * (1 - pi), rtol=1e-5)


def test_is_the_curvature_of_the_kl(params, inputs):
    """KL(base || policy) has the Fisher matrix as its Hessian at the base, here along each axis."""
    base = log_probs(params, inputs)

    def mean_kl(b):
        policy = log_probs({**params, "b": b}, inputs)
        return jnp.mean(jnp.sum(jnp.exp(base) * (base - policy), axis=-1))

    hessian = jax.jit(jax.hessian(mean_kl))(params["b"])
    got = fisher_of(log_probs, params, inputs, 3)["b"]
    np.testing.assert_allclose(got, jnp.diag(hessian), rtol=1e-5)


def test_the_order_of_the_inputs_is_irrelevant(params, inputs):
    there = fisher_of(log_probs, params, inputs, 1)
    back = fisher_of(log_probs, params, inputs[::-1], 3)
    chex.assert_trees_all_close(there, back, rtol=1e-5)


@pytest.mark.parametrize("factor", [1e5, 1e25])
def test_a_certain_policy_has_no_information(params, inputs, factor):
    """Not even where the scores of the classes it rules out overflow when squared."""
    certain = {**params, "v": np.float32(factor) * params["v"]}
    got = fisher_of(log_probs, certain, inputs, 3)
    chex.assert_trees_all_equal(got, jax.tree.map(np.zeros_like, params))


def test_a_forbidden_class_counts_nothing(params, inputs):
    def two_classes(params, x):
        return jax.nn.log_softmax(log_probs(params, x)[:, :2])

    def forbidden(params, x):
        logits = jnp.where(jnp.arange(V)[None] == 2, -jnp.inf, log_probs(params, x))
        return jax.nn.log_softmax(logits)

    got = fisher_of(forbidden, params, inputs, 3)
    expected = fisher_of(two_classes, params, inputs, 3)
    chex.assert_trees_all_close(got, expected, rtol=1e-5)
    assert np.sum(got["w"]) > 0


def test_not_a_number_stays_visible(params, inputs):
    got = fisher_of(log_probs, params, inputs * np.float32([np.nan, 1, 1, 1]), 3)
    assert np.isnan(got["b"]).all()


def test_images_and_vmapped_runs(params, inputs):
    images = inputs.reshape(N, 2, 2)
    flat = lambda p, x: log_probs(p, x.reshape(len(x), D))  # noqa: E731
    runs = jax.tree.map(lambda p: np.stack([p, 2 * p]), params)
    one = chex.assert_max_traces(lambda p: diagonal_fisher(flat, p, images, chunk=3), n=1)
    many = jax.jit(jax.vmap(one))(runs)
    for r in range(2):
        params, got = jax.tree.map(operator.itemgetter(r), (runs, many))
        chex.assert_trees_all_close(got, fisher_of(log_probs, params, inputs, 3), rtol=1e-5)


def test_no_chunk_holds_all_per_example_gradients(inputs):
    """The compiled program's scratch space grows with the chunk, not with the inputs."""
    params = jax.tree.map(
        np.float32, {"w": np.ones((D, 999)), "v": np.ones((999, V)), "b": np.ones(V)}
    )
    many = np.tile(inputs, (40, 1))
    bytes_of = lambda t: sum(leaf.nbytes for leaf in jax.tree.leaves(t))  # noqa: E731

    def scratch(chunk):
        run = jax.jit(lambda p, x: diagonal_fisher(log_probs, p, x, chunk=chunk))
        return run.lower(params, many).compile().memory_analysis().temp_size_in_bytes

    assert scratch(2) < 10 * bytes_of(params)
    assert scratch(280) > 50 * bytes_of(params)  # the yardstick does see per-example gradients


@pytest.mark.parametrize(("rows", "chunk"), [(0, 4), (N, 0)])
def test_mistakes_are_named(params, inputs, rows, chunk):
    with pytest.raises(ValueError, match=f"got {rows} inputs and chunk={chunk}"):
        diagonal_fisher(log_probs, params, inputs[:rows], chunk=chunk)
