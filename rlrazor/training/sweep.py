"""Many runs of one shape: what one run does between two checkpoints, ready to be mapped.

Everything in which runs may differ (learning rate, schedule, arm, seed, base) is data in `Run`,
so one compiled program serves the whole sweep; `runtime/mesh.map_runs` adds the axis R.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlrazor.training.optimizer import adamw, warmup_schedule
from rlrazor.training.state import TrainState
from rlrazor.training.step import make_train_step
from rlrazor.types import Metrics, Params


@struct.dataclass
class Run:
    """One run's hyperparameters as arrays; a sweep stacks them to [R]."""

    arm: jax.Array  # i32[] index of the arm's loss
    base: jax.Array  # i32[] index of the base model it starts from
    learning_rate: jax.Array  # f32[]
    cosine: jax.Array  # bool[]
    warmup_steps: jax.Array  # i32[]
    total_steps: jax.Array  # i32[]
    seed: jax.Array  # i32[] data order and sampling


RunLoss = Callable[[Params, Any, jax.Array, Run], tuple[jax.Array, Metrics]]
Gather = Callable[[Any, jax.Array, Run], Any]  # (data, indices i32[B], run) -> batch


def run_optimizer(
    run: Run, *, weight_decay: float, clip_by_global_norm: float
) -> optax.GradientTransformation:
    """AdamW with the run's own schedule; it closes over the run's (possibly traced) arrays."""
    schedule = warmup_schedule(
        run.learning_rate,
        warmup_steps=run.warmup_steps,
        total_steps=run.total_steps,
        cosine=run.cosine,
    )
    return adamw(schedule, weight_decay=weight_decay, clip_by_global_norm=clip_by_global_norm)


def batch_indices(
    key: jax.Array,
    step: jax.Array,  # i32[] first step of the chunk
    *,
    steps: int,
    batch_size: int,
    examples: int,
) -> jax.Array:  # i32[steps, batch_size]
    """Rows of the next `steps` batches: a fresh permutation each epoch, derived from the step.

    The position in the data is thus a function of the step alone, and resuming needs nothing
    else. A chunk lies within one epoch: an epoch is as many whole chunks as the data allow, and
    its last few examples wait for the next permutation.
    """
    chunks_per_epoch = examples // (steps * batch_size)
    if chunks_per_epoch == 0:
        raise ValueError(
            f"a chunk of {steps} steps of {batch_size} needs {steps * batch_size} examples, "
            f"got {examples}; lower batch_size or raise checkpoints_per_epoch"
        )
    epoch, chunk = jnp.divmod(step // steps, chunks_per_epoch)
    # Ordering random bits is a permutation in one sort; `jax.random.permutation` takes two, each
    # moving values too, which is a tenth of a small network's chunk. (32-bit ties do not matter.)
    order = jnp.argsort(jax.random.bits(jax.random.fold_in(key, epoch), (examples,)))
    rows = jax.lax.dynamic_slice(order, (chunk * steps * batch_size,), (steps * batch_size,))
    return rows.reshape(steps, batch_size)


def make_chunk(
    loss_fn: RunLoss,
    make_optimizer: Callable[[Run], optax.GradientTransformation],
    gather: Gather,
    *,
    steps: int,
    batch_size: int,
    examples: int,
) -> Callable[[Run, TrainState, Any], tuple[TrainState, Metrics]]:
    """Returns a pure `(run, state, data) -> (state, metrics)` that trains for `steps` steps.

    Metrics are means over the chunk, plus `finite`: 1 if every loss and final weight was finite.
    """

    def chunk(run: Run, state: TrainState, data: Any) -> tuple[TrainState, Metrics]:
        # The optimizer closes over traced hyperparameters: nothing but arrays enters the state.
        def loss(params, batch, key):
            return loss_fn(params, batch, key, run)

        step = make_train_step(loss, make_optimizer(run))
        rows = batch_indices(
            jax.random.fold_in(jax.random.key(run.seed), 0),
            state.step,
            steps=steps,
            batch_size=batch_size,
            examples=examples,
        )
        state, metrics = jax.lax.scan(
            lambda state, rows: step(state, gather(data, rows, run)), state, rows
        )
        finite = jnp.all(jnp.isfinite(metrics["loss"])) & jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)])
        )
        means = {name: jnp.mean(values) for name, values in metrics.items()}
        return state, {**means, "finite": finite.astype(jnp.float32)}

    return chunk
