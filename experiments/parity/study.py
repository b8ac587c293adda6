"""The whole parity study: bases, sweep, measurements, results.jsonl; interrupted at will."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from experiments.parity.arms import ARMS
from experiments.parity.bases import add_distilled, pretrain, training_data
from experiments.parity.data import ParityData, check_sizes
from experiments.parity.lines import result_lines
from experiments.parity.measure import evaluation_data
from experiments.parity.plan import base_keys, plan_runs, split_blocks
from experiments.parity.programs import build_programs, train_teachers
from experiments.parity.trajectory import plan_trajectories, record_trajectories
from rlrazor.models.mlp import MLP
from rlrazor.runtime.checkpoint import Checkpoints
from rlrazor.runtime.mesh import make_mesh, replicate
from rlrazor.runtime.metrics import write_tensorboard
from rlrazor.runtime.workdir import ResultsFile

# Config fields that say how a study runs and leave every number as it is.
OPERATIONAL = ("checkpoint_every_seconds", "data_dir", "mesh", "tensorboard")


def run_study(config: Any, workdir: Path, data: ParityData) -> None:
    """Runs or resumes a study in an opened workdir, which gains results.jsonl and the rest.

    Every number in results.jsonl is a function of config and data alone: after any interruption
    the same command ends with the same bytes. (Wall-clock seconds therefore stay out of it.)
    """
    mesh = make_mesh(**config.mesh)
    check_sizes(config, data)
    runs = plan_runs(config, list(ARMS))
    with_trajectories = [*runs, *plan_trajectories(config)]
    keys = base_keys(with_trajectories)
    blocks = split_blocks(runs, config.runs_per_block)
    model = MLP(widths=tuple(config.model.widths), classes=10)
    programs = build_programs(model, config, mesh, examples=len(data.new_train.labels))

    base_params = pretrain(model, data, keys, config, mesh)
    arrays = training_data(model, base_params, data, keys, config)
    views = evaluation_data(model, base_params, data, config)
    bases, views = replicate((base_params, views), mesh)
    if any(run.arm == "distilled" for run in with_trajectories):
        teachers = train_teachers(programs, config, keys, bases, replicate(arrays, mesh))
        arrays = add_distilled(model, arrays, teachers, keys)
    arrays = replicate(arrays, mesh)
    lines_of = functools.partial(
        result_lines,
        config=config,
        programs=programs,
        data=data,
        weights=sum(leaf[0].size for leaf in jax.tree.leaves(base_params) if leaf.ndim == 3),
    )

    positions = [
        (index, chunk)
        for index, block in enumerate(blocks)
        for chunk in range(block[0].epochs * config.checkpoints_per_epoch)
    ]
    work = [len(blocks[index]) for index, _ in positions]

    def fresh(index: int) -> Any:
        return programs.initial(programs.place(blocks[index], keys), None, bases)

    results = ResultsFile(workdir / "results.jsonl")
    checkpoints = Checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore_newest(lambda note: fresh(positions[note["position"] - 1][0]))
    state, note = restored or (None, {"position": 0, "bytes": 0})
    results.cut(note["bytes"])
    recorded = results.read()
    saved_at = time.monotonic()
    with tqdm(
        total=sum(work),
        initial=sum(work[: note["position"]]),
        desc=f"{len(runs)} runs",
        unit=" checkpoints",
        smoothing=0.05,
    ) as bar:
        for position in range(note["position"], len(positions)):
            index, chunk = positions[position]
            block = blocks[index]
            run = programs.place(block, keys)
            state, trained = programs.train(run, fresh(index) if chunk == 0 else state, arrays)
            measured = programs.measure(run, state, views)
            lines = lines_of(block, chunk, *jax.device_get((trained, measured)))
            size = results.append(lines)
            recorded += lines
            bar.update(work[position])
            done = position + 1 == len(positions)
            # Before the checkpoint, after which nobody would come back to this block.
            if config.tensorboard and (done or positions[position + 1][0] != index):
                names = {run.name for run in block}
                of_block = [line for line in recorded if line["run"] in names]
                write_tensorboard(of_block, workdir / "tensorboard")
            if done or time.monotonic() - saved_at >= config.checkpoint_every_seconds:
                checkpoints.save(position + 1, state, {"position": position + 1, "bytes": size})
                saved_at = time.monotonic()
    checkpoints.close()
    record_trajectories(
        model, config, programs, keys, bases, arrays, data, mesh, workdir / "trajectory.jsonl"
    )
