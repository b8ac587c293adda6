"""Training on a task that lives on the device: draw or play, judge and learn in one program."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.methods import sources
from rlrazor.runtime.mesh import compile_once, on_mesh, replicate
from rlrazor.sampling.decode import Sampling
from rlrazor.sampling.episodes import deal
from rlrazor.studies.programs import (
    POOL,
    Given,
    RunState,
    Setup,
    by_keys,
    draw_key,
    learn,
    player,
    side_by_side,
    state_shardings,
)
from rlrazor.studies.study import Run
from rlrazor.tasks.protocol import Expert, Task
from rlrazor.types import Metrics, Rows


def itself(task: Any) -> Expert:
    """The expert of a task that shows by itself how it is done."""
    return task


def versions(*tasks: Task) -> Task:
    """One tree of several tasks of the same kind, leaves [M, ...]: what is trained on, and asked.

    One task alone is a tree of one version.
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


@dataclasses.dataclass(frozen=True, eq=False)
class OnDevice:
    """Versions of a task, one of which each iteration draws, and who shows how it is done."""

    tasks: Task  # a tree with leaves [M, ...], of `versions`
    expert: Callable[[Any], Expert] | None = None  # of the version drawn; None: there is none
    end: int | None = None  # the token behind a demonstrated answer
    # Versions of tasks whose prompts the base answers for a method that is held to it there.
    anchors: Task | None = None

    def refusal(self, setup: Setup) -> str | None:
        """Why the method cannot be had here; None where it can."""
        if self.expert is None and (setup.method.imitates or setup.method.demonstrated):
            return "learns from demonstrations, and the task has no expert to give them"
        if setup.method.anchored and self.anchors is None:
            return "is held to the base on prompts of other tasks, and the world has none for it"
        if setup.side_by_side > 1 and not setup.policy.replicated:
            return "has a model that is cut over devices, and is trained by itself: side_by_side=1"
        if setup.turns > 1 and setup.method.demonstrated:
            return "shows a demonstration of one answer, not of several turns"
        return None

    def row_tokens(self, setup: Setup) -> int:
        """Slots of a row, padding included: the D of the papers' FLOP formula."""
        task = jax.tree.map(lambda leaf: leaf[0], self.tasks)
        opening, reply = jax.eval_shape(
            lambda key: (task.opening(task.reset(key)).tokens, task.reply(task.reset(key)).tokens),
            jax.random.key(0),
        )
        answers = setup.turns * setup.policy.answer_tokens
        return opening.size + (setup.turns - 1) * reply.size + answers

    def iteration(
        self, setup: Setup
    ) -> Callable[[RunState, Given, Task], tuple[RunState, Metrics]]:
        """One iteration as a pure function, to be compiled, planned or counted."""

        def iterate(state: RunState, given: Given, tasks: Task) -> tuple[RunState, Metrics]:
            drawing, order = jax.random.split(draw_key(state, given))
            rows, of_rows = self.draw(setup, state, given, tasks, drawing)
            state, of_updates = learn(setup, state, given, rows, order)
            return state, {**of_rows, **of_updates}

        return iterate

    def draw(
        self, setup: Setup, state: RunState, given: Given, tasks: Task, key: jax.Array
    ) -> tuple[Rows, Metrics]:
        """Rows to learn from: demonstrations, pairs, or episodes just played."""
        policy, method, prompts = setup.policy, setup.method, setup.sizes.prompts
        version_key, example_key = jax.random.split(key)
        versions = len(jax.tree.leaves(tasks)[0])
        version = jax.random.randint(version_key, (), 0, versions)
        task = jax.tree.map(lambda leaf: leaf[version], tasks)
        keys = answer_keys = jax.random.split(example_key, prompts)
        if setup.fixed:  # an example that comes again is answered afresh
            number = jax.random.randint(example_key, (prompts,), 0, setup.fixed)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(given.stream(POOL), number)
            answer_keys = jax.random.split(jax.random.fold_in(key, 1), prompts)
        source = method.source
        if method.imitates:
            make = sources.pairs if method.paired else sources.demonstrations

            def shown(task: Task, keys: jax.Array) -> Rows:
                states = sources.deal(source, task, keys)
                return make(task, self.expert(task), states, keys, end=self.end)  # type: ignore

            rows = by_keys(shown, policy.mesh, task, keys)
            if method.anchored:
                rows = dataclasses.replace(rows, anchor=self._anchor(setup, given, key))
            return rows, {}
        params = player(setup, state, given)
        dealt = by_keys(deal, policy.mesh, task, keys)
        played = policy.play(
            params, task, dealt, answer_keys, policy.sampling,
            turns=setup.turns, samples=setup.sizes.samples,
        )  # fmt: skip
        rows = sources.rows_of(played)
        if method.demonstrated:
            expert = self.expert(task)  # type: ignore[misc]
            rows = sources.demonstrated(task, expert, played.dealt, keys, rows, end=self.end)  # type: ignore
        return rows, sources.metrics_of(played)

    def _anchor(self, setup: Setup, given: Given, key: jax.Array) -> Rows:
        """The base's own answers to prompts of one of the anchors."""
        policy = setup.policy
        version_key, example_key = jax.random.split(jax.random.fold_in(key, 2))
        anchors = replicate(self.anchors, policy.mesh)
        version = jax.random.randint(version_key, (), 0, len(jax.tree.leaves(anchors)[0]))
        task = jax.tree.map(lambda leaf: leaf[version], anchors)
        keys = jax.random.split(example_key, setup.sizes.prompts)
        dealt = by_keys(deal, policy.mesh, task, keys)
        played = policy.play(given.base, task, dealt, keys, policy.sampling, turns=1)
        found = sources.rows_of(played)
        return Rows(
            found.tokens, found.count, found.mask, found.prompt_count,
            prompt_size=found.prompt_size,
        )  # fmt: skip

    def advancing(self, setup: Setup, whole: Any) -> Callable[..., tuple[RunState, Metrics]]:
        """`(run, state, given, done) -> (state, metrics)`, compiled when first called.

        `whole` is a state or its shapes.
        """
        mesh = setup.policy.mesh
        tasks = replicate(self.tasks, mesh)
        iterate = compile_once(
            side_by_side(self.iteration(setup), setup.side_by_side, shared=1),
            donate=(0,),
            out=(state_shardings(setup, whole), on_mesh(mesh)),
        )

        def advance(run: Run, state: RunState, given: Given, done: int):
            return iterate(state, given, tasks)

        return advance


def sampled(params: Any, policy: Any, task: Task, keys: jax.Array, sampling: Sampling, **how: int):
    """Episodes of fresh examples, one a key: what measurements look at."""
    dealt = by_keys(deal, policy.mesh, task, keys)
    return policy.play(params, task, dealt, keys, sampling, **how)
