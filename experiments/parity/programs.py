"""The compiled programs of the parity study."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.parity.arms import ARMS, make_arm_loss
from experiments.parity.bases import gather
from experiments.parity.measure import make_measure
from experiments.parity.plan import SweepRun, run_arrays
from rlrazor.runtime.mesh import map_runs, pad_runs, shard_runs
from rlrazor.training.state import TrainState, init_state
from rlrazor.training.sweep import Run, make_chunk, run_optimizer


@dataclasses.dataclass(frozen=True)
class Programs:
    """Every arm, rate, schedule, seed and base goes through the same three: they are data."""

    initial: Callable[..., Any]  # (run[R], None, base params[K]) -> TrainState[R]
    train: Callable[..., Any]  # (run[R], state[R], data) -> (state[R], metrics[R]), donating
    measure: Callable[..., Any]  # (run[R], state[R], evaluation data) -> metrics[R]
    place: Callable[[list[SweepRun], list[tuple[int, int]]], Run]  # (runs, bases) -> run[R]
    chunk_steps: int  # steps between two checkpoints
    steps_per_epoch: int


def training_chunk(model: Any, config: Any, *, steps: int, examples: int) -> Callable[..., Any]:
    """The pure `(run, state, data) -> (state, metrics)` that trains any arm for `steps` steps."""
    arm_loss = make_arm_loss(**config.arm)

    def loss(params, batch, key, run: Run):
        log_policy = jax.nn.log_softmax(model.apply(params, batch.inputs)[0])
        return arm_loss(run.arm, log_policy, batch, key), {}

    return make_chunk(
        loss,
        functools.partial(run_optimizer, **config.optimizer),
        gather,
        steps=steps,
        batch_size=config.batch_size,
        examples=examples,
    )


def build_programs(model: Any, config: Any, mesh: Mesh, *, examples: int) -> Programs:
    """Compiles lazily, once for each number of runs R."""
    batches = examples // config.batch_size
    chunk_steps = batches // config.checkpoints_per_epoch
    if chunk_steps < 1:
        raise ValueError(
            f"config.checkpoints_per_epoch={config.checkpoints_per_epoch} must be at most the "
            f"{batches} batches of an epoch; lower it or config.batch_size={config.batch_size}"
        )
    steps_per_epoch = chunk_steps * config.checkpoints_per_epoch

    def initial(run: Run, _, base_params) -> TrainState:
        params = jax.tree.map(lambda leaf: leaf[run.base], base_params)
        key = jax.random.fold_in(jax.random.key(run.seed), 1)
        return init_state(params, run_optimizer(run, **config.optimizer), key)

    def place(planned: list[SweepRun], bases: list[tuple[int, int]]) -> Run:
        arrays = run_arrays(
            planned,
            arms=list(ARMS),
            bases=bases,
            warmup_steps=config.warmup_steps,
            steps_per_epoch=steps_per_epoch,
        )
        padded = pad_runs(len(planned), mesh)
        return shard_runs(jax.tree.map(lambda leaf: leaf[padded], arrays), mesh)

    chunk = training_chunk(model, config, steps=chunk_steps, examples=examples)
    return Programs(
        initial=map_runs(initial, mesh),
        train=map_runs(chunk, mesh, donate_state=True),
        measure=map_runs(make_measure(model, **config.measure), mesh, side_by_side=False),
        place=place,
        chunk_steps=chunk_steps,
        steps_per_epoch=steps_per_epoch,
    )


def train_teachers(
    programs: Programs,
    config: Any,
    keys: list[tuple[int, int]],
    bases: Any,  # leaves [K, ...] on the mesh
    data: dict[str, Any],  # on the mesh
) -> Any:  # leaves [K, ...]
    """Trains an RL policy from each base, whose samples the distilled arm imitates."""
    teacher = config.teacher
    planned = [
        SweepRun(teacher.arm, seed, epochs, teacher.learning_rate, "constant", teacher.epochs)
        for seed, epochs in keys
    ]
    run = programs.place(planned, keys)
    state = programs.initial(run, None, bases)
    for _ in range(teacher.epochs * config.checkpoints_per_epoch):
        state, metrics = programs.train(run, state, data)
    if not np.all(np.asarray(metrics["finite"])):
        raise ValueError(
            f"the RL teacher diverged at config.teacher.learning_rate={teacher.learning_rate}; "
            "lower it"
        )
    return jax.tree.map(lambda leaf: leaf[: len(keys)], state.params)
