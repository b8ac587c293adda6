"""What a study trains on and what it measures: a world is a value."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import jax

from rlrazor.studies.programs import RunState, Setup
from rlrazor.studies.study import Columns
from rlrazor.types import Metrics, Params

Advance = Callable[..., tuple[RunState, Metrics]]  # (run, state, given, iterations done)


class Training(Protocol):
    """Where a method's rows come from: a task on the device, or questions of the host."""

    def refusal(self, setup: Setup) -> str | None:
        """Why the method cannot be had here, as the end of a sentence; None where it can."""
        ...

    def row_tokens(self, setup: Setup) -> int:
        """Tokens of a row, padding included: the D of the papers' FLOP formula."""
        ...

    def advancing(self, setup: Setup, whole: Any) -> Advance:
        """One iteration, compiled when it is first called; `whole` is a state or its shapes."""
        ...


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Numbers of a policy under a prefix; those of the base stand beside them."""

    prefix: str  # "new", "shift/<name>", "prior/<suite>", "prior"
    # (policy, base, kept, key) -> numbers; called with (base, base) for those of the base
    of: Callable[[Params, Params, Any, jax.Array], Columns]
    keep: Callable[[Params, jax.Array], Any] | None = None  # of the base, once a seed
    # Names of numbers that those of the base stand beside: "accuracy" beside "base_accuracy".
    beside: Sequence[str] = ()
    when: Literal["every", "last"] = "every"  # the base is always measured
    arms: Sequence[str] | None = None  # None: every arm


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """What is trained on, and what is asked of a policy at every checkpoint."""

    train: Training
    measurements: Sequence[Measurement]
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # which it is, for JSON
