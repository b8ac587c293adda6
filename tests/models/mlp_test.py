import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models.mlp import MLP
from rlrazor.runtime.mesh import compile_once

B, D, V = 5, 7, 10
X = np.random.default_rng(0).normal(size=(B, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return MLP(widths=(6, 4), classes=V)


@pytest.fixture(scope="module")
def params(model):
    return compile_once(model.init)(jax.random.key(0), X)


def by_hand(params, x):
    """Layers in a loop, float64; returns logits and last hidden activations."""
    layers = params["params"]
    for n in range(len(layers)):
        features = x = np.asarray(x, np.float64) if n == 0 else np.maximum(x, 0)
        x = x @ np.asarray(layers[f"Dense_{n}"]["kernel"], np.float64)
        x = x + np.asarray(layers[f"Dense_{n}"]["bias"], np.float64)
    return x, features


def test_matches_numpy(model, params):
    rng = np.random.default_rng(1)  # biases start at zero, where a mistake would hide
    params = jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape).astype("f4"), params)
    logits, features = compile_once(model.apply)(params, X)
    chex.assert_shape([logits, features], [(B, V), (B, 4)])
    chex.assert_trees_all_close((logits, features), by_hand(params, X), rtol=1e-5, atol=1e-5)
    assert features.min() == 0.0  # rectified
    assert logits.min() < 0.0  # not rectified


def test_params_are_a_plain_tree_of_float32(params):
    shapes = {f"Dense_{n}": s for n, s in enumerate([(D, 6), (6, 4), (4, V)])}
    expected = {name: {"kernel": shape, "bias": shape[1:]} for name, shape in shapes.items()}
    assert jax.tree.map(jnp.shape, params) == {"params": expected}
    chex.assert_type(jax.tree.leaves(params), jnp.float32)


def test_no_hidden_layer_is_a_linear_policy():
    model = MLP(widths=(), classes=V)
    params = compile_once(model.init)(jax.random.key(0), X)
    logits, features = model.apply(params, X)
    np.testing.assert_array_equal(features, X)
    np.testing.assert_allclose(logits, X @ params["params"]["Dense_0"]["kernel"], rtol=1e-5)


def test_every_leading_shape_and_the_order_of_a_batch(model, params):
    batch = model.apply(params, X)
    one = model.apply(params, X[2])
    chex.assert_trees_all_close(one, jax.tree.map(lambda leaf: leaf[2], batch), rtol=1e-5)
    chex.assert_trees_all_close(
        model.apply(params, X[::-1]), jax.tree.map(lambda leaf: leaf[::-1], batch), rtol=1e-5
    )


def test_vmapped_over_runs_equals_solo_in_one_trace(model, params):
    chex.clear_trace_counter()
    runs = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    apply = chex.assert_max_traces(lambda params: model.apply(params, X), n=1)
    many = compile_once(jax.vmap(apply))(runs)
    twice = model.apply(jax.tree.map(lambda leaf: 2 * leaf, params), X)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], many), twice, rtol=1e-5)


def test_integers_are_refused(model, params):
    with pytest.raises(AssertionError):
        model.apply(params, np.ones((B, D), np.int32))
