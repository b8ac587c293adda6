"""What a study is to the one loop that drives it; see `drive`."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jax.typing import ArrayLike

from rlrazor.lines import Family

Numbers = Mapping[str, ArrayLike]  # of an iteration, by name; `Metrics` are such
# What was measured, by the name that results.jsonl has for it: numbers, and packed outcomes.
Columns = Mapping[str, Any]


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
    stops: tuple[int, ...]  # iterations at which it is measured, the last among them; 0: untrained
    updates_per_iteration: int = 1  # of the optimizer
    steps_per_iteration: int = 1  # of a line's "step"
    flops_per_iteration: float = 0.0
    flops_before: float = 0.0  # of what it pays once, such as labels read from the base
    flops_teacher: float = 0.0  # of training its teacher and the policy that it starts from
    base: str = ""  # the model that it starts from
    roles: str | None = None  # in comparisons; None: what its family has by itself
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def stop_at(self, share: float) -> int:
        """The measured iteration nearest to a share of the run; never the untrained one."""
        trained = [stop for stop in self.stops if stop > 0]
        return min(trained, key=lambda stop: abs(stop - share * self.iterations))


Block = Sequence[Run]  # trained side by side in one program: one run, or a sweep of many


class Study(Protocol):
    """Five pure-looking methods; `drive` owns files, checkpoints, progress and signals.

    All runs of a block have the same iterations and stops. A state is a tree of arrays and nothing
    else, so that it can be saved and restored. What `advance` and `keep` do may be done again,
    after an interruption, and must then give the same to the bit.
    """

    title: str  # the name of the study, in every line
    folder: Path  # of the run: `drive` sets it first of all, for `keep` and who reads what it kept

    @property
    def record(self) -> Mapping[str, Any]:
        """All that decides what is learnt, as JSON has it; a folder is resumed only with the same.

        It stands in run.json.
        """
        ...

    def plan(self) -> Sequence[Block]:
        """Every block, in an order in which nothing is needed before it exists."""
        ...

    def begin(self, block: Block) -> Any:
        """The state of a block before its first iteration; its shapes are those of any later."""
        ...

    def advance(self, block: Block, state: Any, done: int) -> tuple[Any, int, Numbers]:
        """One unit of work that is resumed whole: the state, iterations done, numbers of the way.

        It may go as far as the next stop. The numbers are f32[] each, or f32[R] of a block of R
        runs. Those named "seconds..." are shown and never written down; "row_tokens", of rows
        learnt from without padding, gives the speed.
        """
        ...

    def measure(self, block: Block, state: Any, at: int) -> Sequence[Columns]:
        """Numbers of each run of the block after `at` iterations, by their columns.

        One that is not finite becomes null; under new/, shift/ or prior/ it marks the run as
        diverged.
        """
        ...

    def keep(self, block: Block, state: Any, at: int) -> None:
        """Saves what other runs, or the user, will want of the policy after `at` iterations."""
        ...


def check_plan(blocks: Sequence[Block]) -> None:
    """Raises ValueError for a plan that could not be driven, or whose lines would be ambiguous."""
    runs = [run for block in blocks for run in block]
    if not runs or not all(blocks):
        raise ValueError("the study plans no run, or a block of none; give it at least one")
    names = collections.Counter(run.name for run in runs)
    for name, count in names.items():
        if count > 1:
            raise ValueError(
                f"the study plans {name!r} {count} times; runs that differ in anything that is "
                "learnt need different names"
            )
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"run {name!r} cannot be the name of a folder; choose another")
    for block in blocks:
        first = block[0]
        stops = first.stops
        if not stops or sorted({*stops}) != [*stops] or stops[0] < 0 or stops[-1] < 1:
            raise ValueError(f"run {first.name} stops at {stops}; they must grow, from 0 or later")
        if stops[-1] != first.iterations:
            raise ValueError(
                f"run {first.name} is measured last at {stops[-1]} of {first.iterations} "
                "iterations; the last stop must be its end"
            )
        for run in block:
            if (run.iterations, run.stops) != (first.iterations, stops):
                raise ValueError(
                    f"runs {first.name} and {run.name} of one block must have the same iterations "
                    "and stops"
                )
