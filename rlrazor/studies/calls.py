"""What a run on questions of the host calls, as shapes: to compile before there are any weights.

The programs are those that `host`, `questions` and `measurements` compile, so that what is planned
is what will run. Shapes say where they lie, on devices that need not exist.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.methods.method import Episodes
from rlrazor.runtime.mesh import rows_at, shapes_at
from rlrazor.studies.host import NO_ANCHOR, behind, behind_buckets, learner, sampler
from rlrazor.studies.measurements import AS_IT_IS, GREEDY, distances
from rlrazor.studies.programs import ADAPTERS, Given, RunState, Setup, initial, state_shardings
from rlrazor.studies.questions import answerer
from rlrazor.types import Params, Rows


@dataclasses.dataclass(frozen=True)
class Asked:
    """How much is asked at a time, and to which lengths rows are padded."""

    prompt_buckets: Sequence[int]
    row_buckets: Sequence[int]
    at_once: int  # test questions answered at a time

    @property
    def largest(self) -> "Asked":
        """The largest bucket of each kind alone."""
        return Asked((max(self.prompt_buckets),), (max(self.row_buckets),), self.at_once)


@dataclasses.dataclass(frozen=True)
class Call:
    """A program as a run calls it."""

    name: str
    program: Any  # compiled when it is called; `program.lower(*arguments)` does no more
    arguments: tuple[Any, ...]
    reads: tuple[str, ...]  # names of `held` that are among its arguments
    rows: int
    tokens: int  # of a row, padding included
    samples: bool = False  # whether it decodes, with a cache of `rows` x `tokens`


@dataclasses.dataclass(frozen=True)
class Planned:
    """An arm on a base of which only shapes are known."""

    setup: Setup
    state: RunState
    given: Given

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained, beside a base that does not change."""
        of_state, of_base = (jax.tree.structure(x) for x in (self.trained, self.given.base))
        return of_state != of_base

    @property
    def trained(self) -> Params:
        return self.state.train.params["policy"]

    @property
    def held(self) -> dict[str, Any]:
        """All that lies on the devices throughout a run, by name.

        The base always does: whatever is trained is measured against it.
        """
        parts = {
            "adapters" if self.adapted else "parameters": self.trained,
            "optimizer": self.state.train.opt_state,
            "base": self.given.base,
            "teacher": self.given.teacher,
            "average": self.state.average,
            "critic": self.state.train.params.get("critic"),
        }
        return {name: tree for name, tree in parts.items() if tree is not None}

    def reading(self, *names: str) -> tuple[str, ...]:
        """Those names of `held`, and the base where adapters lie beside it."""
        if self.adapted and names != ("base",):
            names = (*names, "base")
        names = tuple("adapters" if self.adapted and n == "parameters" else n for n in names)
        return tuple(name for name in self.held if name in names)


def planned(setup: Setup, base: Params) -> Planned:
    """`base` are shapes that say where they lie, such as those of `rlrazor.api.model.described`."""

    def placed(tree: Any) -> Any:
        return shapes_at(tree, state_shardings(setup, tree))

    key = jax.eval_shape(lambda: jax.random.key(ADAPTERS))
    trained = placed(jax.eval_shape(setup.policy.initial, base, key))
    numbers: Any = {
        name: jax.ShapeDtypeStruct((), dtype)
        for name, dtype in (
            ("learning_rate", jnp.float32), ("iterations", jnp.int32), ("seed", jnp.int32)
        )
    }  # fmt: skip
    teacher = trained if setup.method.reads("teacher") else None
    given = Given(base=base, teacher=teacher, **numbers)
    begun = jax.eval_shape(lambda given, start: initial(setup, given, start), given, trained)
    return Planned(setup, placed(begun), given)


def training_calls(arm: Planned, asked: Asked) -> Iterator[Call]:
    """`sample`, where answers are sampled, and `learn`, for every bucket.

    Pairs, and rows behind demonstrations, come in buckets of two kinds; the second is the largest.
    ValueError for a method that questions of the host cannot have.
    """
    setup, state, given = arm.setup, arm.state, arm.given
    method, sizes, mesh = setup.method, setup.sizes, setup.policy.mesh
    source, passes = method.source, method.passes
    if method.anchored:
        raise ValueError(f"{method.label} {NO_ANCHOR}; plan another arm")
    learn = learner(setup, state)
    readers = [name for name in ("base", "teacher") if getattr(passes, name)]
    read = arm.reading("parameters", "optimizer", "average", "critic", *readers)

    def learning(rows: Rows) -> Call:
        count, tokens = rows.tokens.shape
        return Call("learn", learn, (state, given, rows), read, count, tokens)

    if not isinstance(source, Episodes):
        for size in sorted(asked.row_buckets):
            rows = _conversations(sizes.rows, size, mesh)
            if method.paired:
                wrong = _conversations(sizes.rows, max(asked.row_buckets), mesh)
                rows = dataclasses.replace(rows, rejected=wrong)
            yield learning(rows)
        return
    sample = sampler(setup)
    player = {"policy": "parameters"}.get(source.of, source.of)
    for size in sorted(asked.prompt_buckets):
        arguments = state, given, _prompts(sizes.prompts, size, mesh)
        rows = _rows(sample, arguments, mesh)
        count, tokens = rows.tokens.shape
        yield Call("sample", sample, arguments, arm.reading(player), count, tokens, samples=True)
        yield learning(_demonstrated(rows, asked, setup) if source.demonstrated else rows)


def measuring_calls(arm: Planned, asked: Asked) -> Iterator[Call]:
    """`answer`, greedily and at temperature 1, and `measure`, for every bucket.

    Of the trained policy; the base is measured likewise, without adapters. The same for every
    method that trains the same.
    """
    setup, given, policy = arm.setup, arm.given, arm.setup.policy
    params = jax.eval_shape(policy.assemble, arm.trained, given.base)
    params = shapes_at(params, state_shardings(setup, params))
    read, many = arm.reading("parameters"), asked.at_once
    key = jax.eval_shape(jax.random.key, 0)
    measure = distances(policy, rows_at_once=setup.sizes.rows_at_once)
    programs = {how: answerer(policy, how) for how in (GREEDY, AS_IT_IS)}
    for size in sorted(asked.prompt_buckets):
        arguments = params, _prompts(many, size, policy.mesh), key
        rows = _rows(programs[AS_IT_IS], arguments, policy.mesh)
        tokens = rows.tokens.shape[1]
        for name, how in (("answer greedily", GREEDY), ("answer", AS_IT_IS)):
            yield Call(name, programs[how], arguments, read, many, tokens, samples=True)
        both = arm.reading("parameters", "base")
        yield Call("measure", measure, (params, given.base, rows), both, many, tokens)


def _rows(program: Any, arguments: tuple[Any, ...], mesh: Any) -> Rows:
    """What a program samples; judging it changes no shape."""
    rows = jax.eval_shape(program, *arguments)
    return shapes_at(rows, rows_at(len(rows.count), mesh))


def _shaped(mesh: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows_at(shape[0], mesh))


def _conversations(count: int, size: int, mesh: Any) -> Rows:
    """As `host.conversation_rows` makes them."""
    tokens, mask = (_shaped(mesh, (count, size), dtype) for dtype in (jnp.int32, bool))
    return Rows(tokens, _shaped(mesh, (count,), jnp.int32), mask)


def _prompts(count: int, size: int, mesh: Any) -> Rows:
    """As `host.prompt_rows` makes them."""
    rows = _conversations(count, size, mesh)
    return dataclasses.replace(rows, prompt_count=rows.count, prompt_size=size)


def _demonstrated(rows: Rows, asked: Asked, setup: Setup) -> Rows:
    """The rows behind the longest prompts with a demonstration that the buckets foresee."""
    mesh = setup.policy.mesh
    longest = max(behind_buckets(asked.prompt_buckets, asked.row_buckets))
    arguments = rows, _prompts(setup.sizes.prompts, longest, mesh)
    return _rows(behind, arguments, mesh)
