import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlrazor.runtime.mesh import compile_once
from rlrazor.training.optimizer import adamw
from rlrazor.training.state import init_state
from rlrazor.training.step import make_train_step

TX = adamw(lambda t: 0.1 / (t + 1), weight_decay=0.1, clip_by_global_norm=1.0)
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PARAMS = {"w": np.float32([1.0, -2.0, 0.5]), "b": np.float32(0.3)}


def loss_fn(params, batch, key):
    """Least squares against targets that the key draws."""
    targets = jax.random.normal(key, (len(batch),))
    error = batch @ params["w"] + jnp.broadcast_to(params["b"], (len(batch),)) - targets
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error)), "rows": len(batch)}


def fresh(seed=0):
    return compile_once(lambda params, seed: init_state(params, TX, jax.random.key(seed)))(
        PARAMS, seed
    )


def by_hand(steps, seed=0):
    """The same in float64 and a loop: least-squares gradient, clip, AdamW; yields params, loss."""
    params = {name: np.asarray(p, np.float64) for name, p in PARAMS.items()}
    m = jax.tree.map(np.zeros_like, params)
    v = jax.tree.map(np.zeros_like, params)
    for t in range(steps):
        key = jax.random.fold_in(jax.random.key(seed), t)
        error = X @ params["w"] + params["b"] - np.asarray(jax.random.normal(key, (4,)))
        gradient = {"w": 2 * X.T @ error / 4, "b": 2 * np.mean(error)}
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1.0, 1.0 / norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            direction = m[name] / (1 - 0.9 ** (t + 1))
            direction = direction / (np.sqrt(v[name] / (1 - 0.999 ** (t + 1))) + 1e-8)
            params[name] = params[name] - 0.1 / (t + 1) * (direction + 0.1 * params[name])
        yield params, np.mean(error**2), norm


def test_matches_a_loop_in_float64():
    step, state = compile_once(make_train_step(loss_fn, TX)), fresh()
    for t, (params, loss, norm) in enumerate(by_hand(4), start=1):
        state, metrics = step(state, X)
        chex.assert_trees_all_close(state.params, params, rtol=1e-4)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)  # before the clip
        assert state.step == t


def test_keeps_the_key_and_the_loss_metrics():
    state, metrics = compile_once(make_train_step(loss_fn, TX))(fresh(), X)
    assert set(metrics) == {"largest", "rows", "loss", "gradient_norm"}
    chex.assert_type(list(metrics.values()), jnp.float32)
    assert metrics["rows"] == 4.0
    assert jax.random.key_data(state.key).tolist() == [0, 0]  # never overwritten


def test_every_step_and_seed_draws_anew():
    step, losses = compile_once(make_train_step(loss_fn, optax.set_to_zero())), set()
    for seed in (0, 1):
        state = init_state(PARAMS, optax.set_to_zero(), jax.random.key(seed))
        for _ in range(3):
            state, metrics = step(state, X)
            losses.add(float(metrics["loss"]))
    assert len(losses) == 6


def test_the_state_is_arrays_only_and_starts_at_zero():
    state = fresh()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert (state.step, state.step.dtype) == (0, jnp.int32)
    chex.assert_trees_all_equal(state.params, PARAMS)


def test_traces_once_for_states_of_another_run():
    chex.clear_trace_counter()
    step = compile_once(chex.assert_max_traces(make_train_step(loss_fn, TX), n=1))
    state, _ = step(fresh(0), X)
    step(state, X)
    step(fresh(1), 2 * X)
