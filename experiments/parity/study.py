"""The parity study as one loop drives it: bases, a sweep in blocks, and what is measured of it."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.parity.arms import ARMS
from experiments.parity.bases import add_distilled, pretrain, training_data
from experiments.parity.data import ParityData, check_sizes
from experiments.parity.lines import study_run
from experiments.parity.measure import evaluation_data
from experiments.parity.plan import base_keys, plan_runs, split_blocks
from experiments.parity.programs import build_programs, train_teachers
from experiments.parity.trajectory import plan_trajectories, record_trajectories
from rlrazor.models.mlp import MLP
from rlrazor.runtime.mesh import make_mesh, replicate
from rlrazor.studies.study import Block, Columns, Numbers
from rlrazor.training.state import TrainState
from rlrazor.training.sweep import Run as RunArrays
from rlrazor.types import Params

# Config fields that say how a study runs and leave every number as it is.
OPERATIONAL = ("checkpoint_every_seconds", "data_dir", "mesh", "tensorboard")


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all runs read, on every device of the mesh."""

    bases: Params  # leaves [K, ...]
    training: dict[str, Any]  # see parity/bases.py
    evaluation: dict[str, Any]  # see parity/measure.py


class ParityStudy:
    """A study as `rlrazor.studies.study.Study` describes it; a block is up to 64 runs.

    An iteration is the steps between two checkpoints. Every number is a function of config and
    data alone.
    """

    title = "razor_parity"

    def __init__(self, config: Any, data: ParityData):
        self.config, self.data, self.folder = config, data, Path()
        everything = config.to_dict()
        self.record = {n: value for n, value in everything.items() if n not in OPERATIONAL}
        self.mesh = make_mesh(**config.mesh)
        check_sizes(config, data)
        self.model = MLP(widths=tuple(config.model.widths), classes=10)
        runs = plan_runs(config, list(ARMS))
        self.sweep = {run.name: run for run in runs}
        with_trajectories = [*runs, *plan_trajectories(config)]
        self.keys = base_keys(with_trajectories)
        self.distils = any(run.arm == "distilled" for run in with_trajectories)
        self.images = len(data.new_train.labels)
        self.programs = build_programs(self.model, config, self.mesh, examples=self.images)

    def plan(self) -> Sequence[Block]:
        inputs = jax.ShapeDtypeStruct((1, self.data.new_train.inputs.shape[-1]), jnp.float32)
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), inputs)
        weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes) if leaf.ndim == 2)
        return [
            [
                study_run(
                    run,
                    self.config,
                    steps=self.programs.chunk_steps,
                    weights=weights,
                    images=self.images,
                )
                for run in block
            ]
            for block in split_blocks([*self.sweep.values()], self.config.runs_per_block)
        ]

    @functools.cached_property
    def shared(self) -> Shared:
        """The bases and all that follows from them, made when the first block begins."""
        model, data, keys, config = self.model, self.data, self.keys, self.config
        params = pretrain(model, data, keys, config, self.mesh)
        training = training_data(model, params, data, keys, config)
        views = evaluation_data(model, params, data, config)
        bases, views = replicate((params, views), self.mesh)
        if self.distils:
            on_devices = replicate(training, self.mesh)
            teachers = train_teachers(self.programs, config, keys, bases, on_devices)
            training = add_distilled(model, training, teachers, keys)
        return Shared(bases, replicate(training, self.mesh), views)

    def _arrays(self, block: Block) -> RunArrays:  # leaves [R]
        return self.programs.place([self.sweep[run.name] for run in block], self.keys)

    def begin(self, block: Block) -> TrainState:
        return self.programs.initial(self._arrays(block), None, self.shared.bases)

    def advance(
        self, block: Block, state: TrainState, done: int
    ) -> tuple[TrainState, int, Numbers]:
        """The steps to the next checkpoint; ValueError where a run diverged, if so configured."""
        state, trained = self.programs.train(self._arrays(block), state, self.shared.training)
        trained = jax.device_get(trained)
        finite, loss = (trained[name][: len(block)] for name in ("finite", "loss"))
        diverged = [run for run, well in zip(block, finite, strict=True) if not well]
        if diverged and self.config.on_divergence == "stop":
            raise ValueError(
                f"run {diverged[0].name} met a loss or weight that is not finite by step "
                f"{(done + 1) * self.programs.chunk_steps}; every earlier line is kept. Lower "
                "config.sweep.learning_rates.high, or set config.on_divergence='mark' to record "
                "such runs as diverged and go on (in another workdir)"
            )
        return state, done + 1, {"loss": np.where(finite, loss, np.nan)}

    def measure(self, block: Block, state: TrainState, at: int) -> Sequence[Columns]:
        views = self.shared.evaluation
        measured = jax.device_get(self.programs.measure(self._arrays(block), state, views))
        count = self.config.test_examples
        return [
            {
                "new/count": count,
                "prior/count": count,
                **{name: values[row] for name, values in measured.items()},
                f"prior/{self.data.prior_name}/accuracy": measured["prior/accuracy"][row],
            }
            for row in range(len(block))
        ]

    def keep(self, block: Block, state: TrainState, at: int) -> None:
        """Nothing: no run starts from another's end, and the policies are small and many."""

    def record_trajectories(self, path: Path) -> None:
        """Writes trajectory.jsonl, unless it is there already."""
        record_trajectories(
            self.model,
            self.config,
            self.programs,
            self.keys,
            self.shared.bases,
            self.shared.training,
            self.data,
            self.mesh,
            path,
        )
