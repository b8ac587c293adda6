"""Against the explicit Fisher matrix in float64, and against the KL of small steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rlrazor.evaluation.second_order import plus, second_order_kl

INPUTS = np.random.default_rng(0).normal(size=(6, 4))


def made(seed):
    rng = np.random.default_rng(seed)
    return {"first": rng.normal(size=(4, 5)), "second": rng.normal(size=(5, 3))}


def logits(params):
    return jnp.tanh(jnp.asarray(INPUTS) @ params["first"]) @ params["second"]


def kl_to(params, other):
    p, q = (jax.nn.log_softmax(logits(one)) for one in (params, other))
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def test_it_is_the_whole_fisher_matrix():
    with jax.enable_x64(True):
        params, step = made(1), made(2)
        flat, back = ravel_pytree(params)
        jacobian = jax.jacobian(lambda x: jax.nn.log_softmax(logits(back(x))))(flat)  # [N, V, P]
        p = jax.nn.softmax(logits(params))
        fisher = jnp.einsum("nv,nvi,nvj->nij", p, jacobian, jacobian)  # E[score score^T]
        change = ravel_pytree(step)[0]
        expected = 0.5 * jnp.einsum("i,nij,j->n", change, fisher, change)
        found = second_order_kl(logits, params, step)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        diagonal = 0.5 * jnp.einsum("nii,i->n", fisher, change**2)
        assert np.abs(diagonal / expected - 1).max() > 0.2  # else the test says nothing


@pytest.mark.parametrize("which", ["base first", "base last"])
def test_it_is_the_limit_of_both_divergences(which):
    with jax.enable_x64(True):
        params, step = made(1), made(2)
        ratios = []
        for scale in (1e-2, 1e-3, 1e-4):
            moved = plus(params, step, scale)
            true = kl_to(params, moved) if which == "base first" else kl_to(moved, params)
            small = jax.tree.map(lambda leaf, s=scale: s * leaf, step)
            ratios.append(np.mean(second_order_kl(logits, params, small)) / np.mean(true))
        errors = np.abs(np.array(ratios) - 1)
        assert errors[2] < 1e-3
        assert errors[2] < errors[1] < errors[0]


def test_it_grows_with_the_square_of_the_step():
    params, step = made(1), made(2)
    twice = jax.tree.map(lambda leaf: 2 * leaf, step)
    np.testing.assert_allclose(
        second_order_kl(logits, params, twice), 4 * second_order_kl(logits, params, step), rtol=1e-4
    )
