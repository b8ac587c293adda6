"""The parity study's own training program, on random data of MNIST's shape."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.parity.bases import training_data
from experiments.parity.data import ParityData, Split
from experiments.parity.plan import SweepRun
from experiments.parity.programs import build_programs
from rlrazor.models.mlp import MLP
from rlrazor.runtime.mesh import compile_once, replicate, shard_runs


def make_sweep(
    config: Any, mesh: Mesh, *, runs: int, examples: int, learning_rate: float
) -> tuple[Callable[[str], None], int]:
    """Returns `train(arm)`, which trains `runs` runs for one chunk, and the steps of a chunk.

    The state is donated and goes on from call to call, as in the study.
    """
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((examples, 785), dtype=np.float32)
    split = Split(inputs, rng.integers(10, size=examples, dtype=np.int32))
    model = MLP(widths=tuple(config.model.widths), classes=10)
    base = compile_once(model.init)(jax.random.key(0), jnp.zeros((1, 785)))
    base, keys = jax.tree.map(lambda leaf: leaf[None], base), [(0, 0)]  # one base: seed, epochs
    everything = ParityData("none", split, split, split, split)
    data = replicate(training_data(model, base, everything, keys, config), mesh)
    base = replicate(base, mesh)
    programs = build_programs(model, config, mesh, examples=examples)
    started: dict[str, tuple[Any, Any]] = {}

    def start(arm: str) -> tuple[Any, Any]:
        planned = [SweepRun(arm, 0, 0, learning_rate, "constant", 1)] * runs
        run: Any = programs.place(planned, keys)
        # Seeds of their own: no run profits from images that another has just read.
        run = run.replace(seed=shard_runs(jnp.arange(len(run.seed), dtype=jnp.int32), mesh))
        return run, programs.initial(run, None, base)

    def train(arm: str) -> None:
        run, state = started.get(arm) or start(arm)
        state, metrics = jax.block_until_ready(programs.train(run, state, data))
        if not np.all(np.asarray(metrics["finite"])):
            raise ValueError(f"{arm} diverged: its time would mean nothing; lower the rate")
        started[arm] = run, state

    return train, programs.chunk_steps
