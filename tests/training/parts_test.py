import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlrazor.runtime.mesh import add_up, compile_once, make_mesh
from rlrazor.training.parts import Parts
from rlrazor.training.state import init_state
from rlrazor.training.step import make_train_step

B, T = 8, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, 3)).astype(np.float32)
MASK = RNG.random((B, T)) < 0.4
MASK[2:4] = False  # one part of four has nothing to learn
PARAMS = {"w": np.array([1.0, -2.0, 0.5], np.float32)}
TX = optax.sgd(0.1)


def loss_fn(params, batch, key):
    x, mask = batch
    count = jnp.sum(mask)
    return jnp.sum(jnp.where(mask, (x @ params["w"]) ** 2, 0.0)) / jnp.maximum(count, 1), {
        "tokens": count
    }


def parts(count, devices, weight=lambda batch: jnp.sum(batch[1])):
    mesh = make_mesh(data=devices, devices=jax.devices()[:devices])
    return Parts(count, weight, functools.partial(add_up, mesh=mesh))


@pytest.mark.parametrize(("count", "devices"), [(1, 1), (4, 1), (4, 4), (8, 2)])
def test_a_gradient_in_parts_is_that_of_the_whole(count, devices):
    """Parts with more, with fewer and without tokens to learn."""
    key = jax.random.key(0)
    whole = jax.value_and_grad(loss_fn, has_aux=True)(PARAMS, (X, MASK), key)
    cut = compile_once(parts(count, devices).value_and_grad(loss_fn))(PARAMS, (X, MASK), key)
    chex.assert_trees_all_close(cut, whole, rtol=1e-5)


def test_a_step_in_parts_is_the_step():
    state = init_state(PARAMS, TX, jax.random.key(0))
    whole = make_train_step(loss_fn, TX)(state, (X, MASK))
    cut = compile_once(make_train_step(loss_fn, TX, parts(4, 2)))(state, (X, MASK))
    chex.assert_trees_all_close(cut[0].params, whole[0].params, rtol=1e-5)
    chex.assert_trees_all_close(cut[1], whole[1], rtol=1e-5)


def test_a_batch_without_weight_changes_nothing():
    batch = X, np.zeros_like(MASK)
    gradient_of = compile_once(parts(4, 2).value_and_grad(loss_fn))
    (loss, _), gradient = gradient_of(PARAMS, batch, jax.random.key(0))
    assert loss == 0
    np.testing.assert_array_equal(gradient["w"], 0)


def test_every_part_has_a_key_of_its_own():
    def draw(params, batch, key):
        noise = jax.random.normal(key)
        return params["w"][0] * noise, {"square": noise**2}

    once = parts(4, 2, weight=lambda batch: jnp.float32(1.0))
    batch = X, MASK
    (loss, metrics), _ = compile_once(once.value_and_grad(draw))(PARAMS, batch, jax.random.key(0))
    assert not np.isclose(metrics["square"], 4 * loss**2)  # as with one key for all


def test_gradients_in_bfloat16_are_weighed_and_added_up_in_f32():
    """The weight is no number of bf16, and nor is twice 1.0078125 times it."""
    params = {"w": jnp.ones(3, jnp.bfloat16)}

    def linear(params, batch, key):
        return jnp.sum(params["w"].astype(jnp.float32)) * (1 + 2**-7), {}

    cut = parts(4, 2, weight=lambda batch: jnp.float32(257)).value_and_grad(linear)
    _, gradient = compile_once(cut)(params, (X, MASK), jax.random.key(0))
    assert gradient["w"].dtype == jnp.float32
    np.testing.assert_allclose(gradient["w"], 1 + 2**-7, rtol=1e-6)


def test_rows_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="count=3 parts must divide the 8 rows"):
        parts(3, 1).value_and_grad(loss_fn)(PARAMS, (X, MASK), jax.random.key(0))
