"""What a method is: where its rows come from, what it minimises on them, and what that needs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.lines import Family
from rlrazor.policies.policy import Policy
from rlrazor.types import Metrics, Params, Rows

Value = TypeVar("Value")
Reader = Literal["base", "teacher", "average", "critic"]


@struct.dataclass
class Reads:
    """Weights beside the policy's that a method may read; None where it does not."""

    base: Params | None = None
    teacher: Params | None = None
    average: Params | None = None  # moving average of the policy
    critic: Params | None = None  # the one part that is trained beside the policy


class Objective(Protocol):
    """A loss of `rlrazor.losses`, given what it needs of the policy.

    A function of (policy, params, reads, rows) and, as keywords, all of `Method.knobs`.
    """

    def __call__(
        self, policy: Policy, params: Params, reads: Reads, rows: Rows, /, *_: Any, **knobs: Any
    ) -> tuple[jax.Array, Metrics]:
        """The loss f32[], a mean weighted by `Method.weight`; metrics are sums over the rows."""
        ...


@dataclasses.dataclass(frozen=True)
class Demonstrations:
    """An expert's answers; of data, the answers in the file."""

    anchored: bool = False  # each beside an answer of the base to a prompt of another task


@dataclasses.dataclass(frozen=True)
class Pairs:
    """An expert's answer and a wrong one to the same prompt."""


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Answers that are sampled, and judged."""

    of: Literal["policy", "base", "teacher"] = "policy"
    keep: Literal["all", "correct"] = "all"  # what is learnt from
    demonstrated: bool = False  # each is also given behind an in-context demonstration


Source = Demonstrations | Pairs | Episodes


@dataclasses.dataclass(frozen=True)
class Passes:
    """Forward passes over a row beside the update's: what FLOPs and memory are planned from.

    A pair is two rows. `average` reads rows behind an in-context demonstration, which are longer.
    """

    base: int = 0
    teacher: int = 0
    average: int = 0
    policy: int = 0  # of the policy itself, once an iteration


def given(value: Value | None, name: str) -> Value:
    """What a method needs of its rows or reads; ValueError where it is not there."""
    if value is None:
        raise ValueError(f"{name} is None, and the method's objective needs it")
    return value


def tokens(rows: Rows) -> jax.Array:
    """The weight of a mean over sampled or demonstrated tokens."""
    return jnp.sum(rows.mask)


def answers(rows: Rows) -> jax.Array:
    """The weight of a mean over rows that say anything."""
    return jnp.sum(jnp.any(rows.mask, axis=1))


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to learn, as a value: all that training, planning, FLOPs and analysis must know of it.

    `methods.methods` has those of the papers. `knobs` are the objective's hyperparameters, by
    their names, with the values of its paper; `tuned` changes them.
    """

    name: str
    label: str  # as reports print it
    family: Family
    source: Source
    objective: Objective
    knobs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weight: Callable[[Rows], jax.Array] = tokens  # what the loss is a mean over
    # Once an iteration, before its first update: fills fields of the rows. A row's are its own, so
    # that rows may be prepared a few at a time.
    prepare: Callable[..., Rows] | None = None  # (policy, params, reads, rows, **knobs)
    # Then, over all rows of the iteration together.
    normalise: Callable[..., Rows] | None = None  # (rows, **knobs)
    # f32[P, G] rewards of the samples of each prompt -> f32[P, G]; None: the objective needs none.
    advantage: Callable[[jax.Array], jax.Array] | None = None
    passes: Passes = Passes()
    teacher: str | None = None  # name of the method whose finished run is `Reads.teacher`
    critic: tuple[int, ...] = ()  # widths of a value head; (): no critic
    average_decay: float = 0.0  # of `Reads.average`; 0: none is kept
    epochs: int = 1  # over the rows of an iteration
    roles: str | None = None  # in comparisons, see rlrazor/lines.py; None: those of its family

    def tuned(self, **changes: Any) -> "Method":
        """With other knobs, or another `critic`, `average_decay` or `epochs` where it has one.

        ValueError for a name that the method does not have.
        """
        fields = {"epochs"} | {name for name in ("critic", "average_decay") if getattr(self, name)}
        unknown = [name for name in changes if name not in fields.union(self.knobs)]
        if unknown:
            known = ", ".join(sorted(fields.union(self.knobs)))
            raise ValueError(f"{self.name} has no knob {unknown[0]!r}; it has {known}")
        own = {name: changes.pop(name) for name in fields & changes.keys()}
        return dataclasses.replace(self, knobs={**self.knobs, **changes}, **own)

    def prepared(self, policy: Policy, params: Params, reads: Reads, rows: Rows) -> Rows:
        """The rows as the objective reads them: `prepare`, then `normalise`, as constants."""
        if self.prepare is not None:
            rows = self.prepare(policy, params, reads, rows, **self.knobs)
        if self.normalise is not None:
            rows = self.normalise(rows, **self.knobs)
        return jax.lax.stop_gradient(rows)

    def loss(
        self, policy: Policy, params: Params, reads: Reads, rows: Rows
    ) -> tuple[jax.Array, Metrics]:
        """The objective with its knobs; differentiable in `params` and `reads.critic`."""
        return self.objective(policy, params, reads, rows, **self.knobs)

    @property
    def imitates(self) -> bool:
        """Whether an expert's answers are learnt from, and none that are sampled."""
        return not isinstance(self.source, Episodes)

    @property
    def paired(self) -> bool:
        """Whether a wrong answer stands beside each, and a row is two."""
        return isinstance(self.source, Pairs)

    @property
    def anchored(self) -> bool:
        """Whether it is also held to what the base says to prompts of other tasks."""
        return isinstance(self.source, Demonstrations) and self.source.anchored

    @property
    def demonstrated(self) -> bool:
        """Whether sampled answers are also read behind an in-context demonstration."""
        return isinstance(self.source, Episodes) and self.source.demonstrated

    def reads(self, reader: Reader) -> bool:
        """Whether those weights must be in memory."""
        if reader == "critic":
            return bool(self.critic)
        if reader == "average":
            return self.average_decay > 0
        sampled = isinstance(self.source, Episodes) and self.source.of == reader
        return sampled or getattr(self.passes, reader) > 0
