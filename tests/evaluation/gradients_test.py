import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance

from rlrazor.evaluation import gradients

update_gradient_alignment = jax.jit(gradients.update_gradient_alignment)
COSINE = "update_prior_gradient_cosine"


def tree(seed):
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(4, 3)).astype(np.float32),
        "b": rng.normal(size=3).astype(np.float32),
    }


def flat(t):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]).astype(np.float64)


def scaled(t, factor):
    return jax.tree.map(lambda x: np.float32(factor) * x, t)


def test_matches_scipy_in_float64():
    u, g = tree(0), tree(1)
    got = update_gradient_alignment(u, g)
    assert set(got) == {COSINE, "update_norm", "prior_gradient_norm"}
    np.testing.assert_allclose(got[COSINE], 1 - distance.cosine(flat(u), flat(g)), rtol=1e-5)
    np.testing.assert_allclose(got["update_norm"], np.linalg.norm(flat(u)), rtol=1e-6)
    np.testing.assert_allclose(got["prior_gradient_norm"], np.linalg.norm(flat(g)), rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_positive_cosine_raises_the_prior_loss_by_the_product(seed):
    target, w, u = tree(10), tree(seed), scaled(tree(20 + seed), 1e-3)
    loss = lambda w: sum(  # noqa: E731
        0.5 * np.sum((a - b) ** 2)
        for a, b in zip(jax.tree.leaves(w), jax.tree.leaves(target), strict=True)
    )
    got = update_gradient_alignment(u, jax.tree.map(np.subtract, w, target))
    first_order = got[COSINE] * got["update_norm"] * got["prior_gradient_norm"]
    change = loss(jax.tree.map(np.add, w, u)) - loss(w)
    np.testing.assert_allclose(change, first_order, atol=1e-4)
    assert np.sign(change) == np.sign(got[COSINE])


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
def test_descent_is_minus_one_at_every_scale(size):
    g = scaled(tree(1), size)
    got = update_gradient_alignment(scaled(g, -0.1), g)
    np.testing.assert_allclose(got[COSINE], -1.0, rtol=1e-6)
    assert got[COSINE] >= -1.0
    np.testing.assert_allclose(got["prior_gradient_norm"], np.linalg.norm(flat(g)), rtol=1e-6)


def test_zero_is_zero_not_nan():
    zero, g = jax.tree.map(np.zeros_like, tree(0)), tree(1)
    for u, v in [(zero, g), (g, zero), (zero, zero)]:
        got = update_gradient_alignment(u, v)
        assert got[COSINE] == 0.0
        assert not any(np.isnan(value) for value in got.values())
    assert update_gradient_alignment(zero, g)["update_norm"] == 0.0


def test_not_a_number_stays_visible():
    bad = tree(0)
    bad["b"][0] = np.nan
    got = update_gradient_alignment(bad, tree(1))
    assert np.isnan(got[COSINE])
    assert np.isnan(got["update_norm"])
    assert np.isfinite(got["prior_gradient_norm"])


def test_vmapped_equals_solo_and_traces_once():
    updates, g = [tree(0), scaled(tree(2), 1e-20), scaled(tree(3), 0.0)], tree(1)
    stacked = jax.tree.map(lambda *x: np.stack(x), *updates)
    one = chex.assert_max_traces(gradients.update_gradient_alignment, n=1)
    run = jax.jit(jax.vmap(one, in_axes=(0, None)))
    many = run(stacked, g)
    run(stacked, g)
    solo = [update_gradient_alignment(u, g) for u in updates]
    chex.assert_trees_all_close(many, jax.tree.map(lambda *x: np.stack(x), *solo), rtol=1e-6)


def test_trees_must_agree():
    with pytest.raises(AssertionError):
        update_gradient_alignment(tree(0), {"w": jnp.zeros((4, 3))})
