"""Policies that nobody trained: random directions and straight lines, out to given divergences."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.parity.arms import ARMS
from experiments.parity.study import ParityStudy
from rlrazor.evaluation.accuracy import class_scores
from rlrazor.evaluation.divergence import divergences
from rlrazor.evaluation.second_order import plus, second_order_kl
from rlrazor.runtime.mesh import compile_once
from rlrazor.runtime.weights import load_weights, save_weights
from rlrazor.studies.study import Block, Columns, Numbers, Run
from rlrazor.training.state import TrainState
from rlrazor.types import Params

POLICIES = "policies"
DRAWN = 40  # what a seed is folded with for its random directions
LABELS = {
    "noise": "Noise, each matrix by its size",
    "noise_plain": "Noise, every weight alike",
}


class Kept(ParityStudy):
    """The parity study, which also keeps the last policy of every run."""

    def keep(self, block: Block, state: TrainState, at: int) -> None:
        (self.folder / POLICIES).mkdir(exist_ok=True)
        for place, run in enumerate(block):
            if at == run.iterations:
                mine = jax.tree.map(lambda leaf, row=place: np.asarray(leaf[row]), state.params)
                save_weights(self.policy_path(run.name), mine)

    def policy_path(self, run: str) -> Path:
        return self.folder / POLICIES / f"{run}.safetensors"


@dataclasses.dataclass(frozen=True)
class Direction:
    """Where a run goes from its base."""

    kind: str  # "noise", "noise_plain", or the arm that a line leads to
    draw: int  # which of several
    trained: str | None = None  # the run whose last policy a line leads to


class Directions:
    """A study of a run for each base and direction; an iteration goes on to the next divergence.

    Steps along a direction are those whose second-order KL on the new task is `config.nats`: the
    true one is near it where it is small, and what it is is measured.
    """

    title = "razor_null"

    def __init__(self, trained: Kept, config: Any):
        self.trained, self.config, self.folder = trained, config, Path()
        self.record = config.to_dict()
        self.nats = np.geomspace(config.nats.low, config.nats.high, config.nats.count)
        self.directions = {
            self._name(seed, direction): (base, direction)
            for base, (seed, _) in enumerate(trained.keys)
            for direction in self._of(seed)
        }

    def _of(self, seed: int) -> list[Direction]:
        noises = [Direction(kind, draw) for kind in LABELS for draw in range(self.config.draws)]
        runs = [run for run in self.trained.sweep.values() if run.seed == seed]
        lines = [
            Direction(arm, draw, run.name)
            for arm in self.config.lines
            for draw, run in enumerate(run for run in runs if run.arm == arm)
        ]
        return noises + lines

    def _name(self, seed: int, direction: Direction) -> str:
        to = f"to-{direction.trained}" if direction.trained else f"{direction.draw}-s{seed}"
        return f"{direction.kind}-{to}"

    def plan(self) -> Sequence[Block]:
        return [[self._run(name)] for name in self.directions]

    def _run(self, name: str) -> Run:
        base, direction = self.directions[name]
        arm = direction.kind if direction.trained is None else f"line_{direction.kind}"
        label = LABELS.get(direction.kind) or f"Line to {ARMS[direction.kind].label}"
        rate = 0.0
        if direction.trained is not None:
            rate = self.trained.sweep[direction.trained].learning_rate
        return Run(
            name=name,
            arm=arm,
            method=arm,
            variant="main",
            family="near",
            label=label,
            seed=self.trained.keys[base][0],
            learning_rate=rate,
            iterations=len(self.nats),
            stops=tuple(range(len(self.nats) + 1)),
            updates_per_iteration=0,
            hyperparameters={"learning_rate": rate, "draw": direction.draw},
        )

    def begin(self, block: Block) -> dict[str, jax.Array]:
        return {"at": jnp.int32(0)}

    def advance(self, block: Block, state: Any, done: int) -> tuple[Any, int, Numbers]:
        return {"at": jnp.int32(done + 1)}, done + 1, {}

    def keep(self, block: Block, state: Any, at: int) -> None:
        """Nothing: a policy is a base, a direction and a scale."""

    def measure(self, block: Block, state: Any, at: int) -> Sequence[Columns]:
        return [self._measure(run, at) for run in block]

    def _measure(self, run: Run, at: int) -> Columns:
        base, unit, views = self._begun(run.name)
        scale = float(np.sqrt(self.nats[at - 1])) if at else 0.0
        found = jax.device_get(self._look(base, unit, scale, views))
        count = self.trained.config.test_examples
        return {"new/count": count, "prior/count": count, "scale": scale, **found}

    @functools.lru_cache(maxsize=1)  # noqa: B019  # a study lives as long as its process
    def _begun(self, name: str) -> tuple[Params, Params, Any]:
        """The base, a direction of one nat by second order, and what is looked at."""
        place, direction = self.directions[name]
        shared = self.trained.shared
        base = jax.tree.map(lambda leaf: leaf[place], shared.bases)
        step = self._step(base, self.trained.keys[place][0], direction)
        views = {name: shared.evaluation[name] for name in ("inputs", "correct")}
        nats = float(self._predicted(base, step, views["inputs"]["new"]))
        if not nats > 0:
            raise ValueError(f"{name} leads nowhere: its policy is the base; train it for longer")
        return base, jax.tree.map(lambda leaf: leaf / np.sqrt(nats), step), views

    def _step(self, base: Params, seed: int, direction: Direction) -> Params:
        if direction.trained is not None:
            last = load_weights(self.trained.policy_path(direction.trained), base)
            return jax.tree.map(jnp.subtract, last, base)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), DRAWN), direction.draw)
        leaves, structure = jax.tree.flatten(base)
        keys = jax.random.split(key, len(leaves))
        drawn = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        if direction.kind == "noise":
            sizes = [jnp.sqrt(jnp.mean(jnp.square(leaf))) for leaf in leaves]
            drawn = [size * noise for size, noise in zip(sizes, drawn, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    @functools.cached_property
    def _predicted(self) -> Any:
        @compile_once
        def predicted(base, step, inputs):
            return jnp.mean(second_order_kl(lambda p: self._logits(p, inputs), base, step))

        return predicted

    @functools.cached_property
    def _look(self) -> Any:
        @compile_once
        def look(base, unit, scale, views):
            step = jax.tree.map(lambda leaf: scale * leaf, unit)
            moved, columns = plus(base, step, 1.0), {}
            for task in ("new", "prior"):
                inputs, correct = views["inputs"][task], views["correct"][task]
                before, after = (self._logits(params, inputs) for params in (base, moved))
                measured = {
                    **class_scores(after, correct),
                    "base_accuracy": class_scores(before, correct)["accuracy"],
                    **divergences(before, after),
                    "second_order_nats": self._predicted(base, step, inputs),
                }
                columns |= {f"{task}/{name}": value for name, value in measured.items()}
            return columns

        return look

    def _logits(self, params: Params, inputs: jax.Array) -> jax.Array:
        return self.trained.model.apply(params, inputs)[0]
