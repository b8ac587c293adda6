"""One gradient step as a pure function."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlrazor.training.parts import Parts
from rlrazor.training.state import TrainState
from rlrazor.types import LossFn, Metrics

StepFn = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def make_train_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, parts: Parts | None = None
) -> StepFn:
    """Returns a pure `(state, batch) -> (state, metrics)`; the caller jits it.

    The loss receives `fold_in(state.key, state.step)`, so that a resumed run draws what the
    uninterrupted one would have drawn. Metrics gain `loss` and `gradient_norm`. With `parts`, the
    gradient is that of the whole batch, worked out a few rows at a time.
    """
    differentiate = functools.partial(jax.value_and_grad, has_aux=True)
    gradient_of = (parts.value_and_grad if parts else differentiate)(loss_fn)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), gradient = gradient_of(state.params, batch, key)
        gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        metrics = {**metrics, "loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        params = optax.apply_updates(state.params, updates)
        after = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
        return after, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    return step
