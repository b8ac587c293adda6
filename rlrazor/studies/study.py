"""What a study is to the one loop that drives it; see `drive`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from rlrazor.types import Metrics

# Whose answers a method learns from: those it is rewarded for, those of others, or its own.
Family = Literal["reward", "outside", "near"]
Columns = Mapping[str, float]  # measured numbers by the name that results.jsonl has for them


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study: its place in the plan, and what its lines say of it."""

    name: str  # of all that is learnt: two runs that differ in it have different names
    arm: str
    method: str
    variant: str
    family: Family
    label: str  # as reports print it
    seed: int
    learning_rate: float
    iterations: int  # units of `Study.advance`, of the whole run
    stops: tuple[int, ...]  # iterations after which it is measured; 0 where the base has a line
    updates_per_iteration: int = 1  # of the optimizer
    steps_per_iteration: int = 1  # of a line's "step"
    flops_per_iteration: float = 0.0
    flops_before: float = 0.0  # of what it pays once, such as labels read from the base
    flops_teacher: float = 0.0  # of training its teacher and the policy that it starts from
    base: str = ""  # the model that it starts from
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def stop_at(self, share: float) -> int:
        """The measured iteration nearest to a share of the run; never the untrained one."""
        trained = [stop for stop in self.stops if stop > 0]
        return min(trained, key=lambda stop: abs(stop - share * self.iterations))


Block = Sequence[Run]  # trained side by side in one program: one run, or a sweep of many


class Study(Protocol):
    """Five pure-looking methods; `drive` owns files, checkpoints, progress and signals.

    All runs of a block have the same iterations and stops. `State` is a tree of arrays and nothing
    else, so that it can be saved and restored.
    """

    title: str  # the name of the study, in every line

    def plan(self) -> Sequence[Block]:
        """Every block, in an order in which nothing is needed before it exists."""
        ...

    def begin(self, block: Block) -> Any:
        """The state of a block before its first iteration; its shapes are those of any later."""
        ...

    def advance(self, block: Block, state: Any, done: int) -> tuple[Any, int, Metrics]:
        """One unit of work that is resumed whole: the state, iterations done, numbers of the way.

        The numbers are f32[] each, or f32[R] of a block of R runs.
        """
        ...

    def measure(self, block: Block, state: Any, at: int) -> Sequence[Columns]:
        """Numbers of each run of the block after `at` iterations; NaN where one is undefined."""
        ...

    def keep(self, block: Block, state: Any, at: int) -> None:
        """Saves what other runs, or the user, will want of the policy after `at` iterations."""
        ...
