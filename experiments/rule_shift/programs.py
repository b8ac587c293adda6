"""One iteration of a run as one compiled program: draw or play, judge, compare, update."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from experiments.general_points.language import Player
from experiments.rule_shift.arms import PLAYED, Arm
from experiments.rule_shift.batches import (
    Rows,
    demonstrations,
    episodes,
    preference_pairs,
    with_demonstration,
)
from experiments.rule_shift.objectives import OBJECTIVES, Context, Others
from rlrazor.runtime.mesh import add_up, spread
from rlrazor.tasks.general_points.task import GeneralPoints
from rlrazor.training.optimizer import adamw, warmup_schedule
from rlrazor.training.parts import Parts, fewest
from rlrazor.training.state import TrainState, init_state
from rlrazor.training.step import make_train_step
from rlrazor.types import Metrics, Params


@struct.dataclass
class RunState:
    """A run between two iterations."""

    train: TrainState  # params: {"policy": ..., "critic": ...}, the critic only where one is used
    average: Params | None  # moving average of the policy, only where a method reads it


@struct.dataclass
class Given:
    """What a run reads and never changes; hyperparameters are data: seeds share a program."""

    tasks: GeneralPoints  # leaves [M, ...]
    base: Params
    teacher: Params | None
    learning_rate: jax.Array  # f32[]
    iterations: jax.Array  # i32[] of the whole run
    seed: jax.Array  # i32[]


@dataclasses.dataclass(frozen=True)
class Run:
    """Pure functions that make a run."""

    initial: Callable[[Given, Params], RunState]  # (given, policy to start from) -> state
    iterate: Callable[[RunState, Given], tuple[RunState, Metrics]]
    draw: Callable[[RunState, Given, jax.Array], tuple[Rows, Metrics]]  # its rows alone


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes of an iteration; the config says what each is."""

    prompts: int
    samples: int
    minibatches: int
    fixed_hands: int

    @property
    def rows(self) -> int:
        return self.prompts * self.samples


def build_run(arm: Arm, context: Context, player: Player, config: Any, mesh: Mesh) -> Run:
    """The programs of an arm.

    Everything random follows from the seed and the number of updates so far: a resumed run draws
    what the uninterrupted one would have drawn, and no two iterations draw alike.
    """
    how, setting = arm.how, arm.setting
    sizes = sizes_of(arm, config)
    objective = OBJECTIVES[how.objective]
    updates = sizes.minibatches * how.epochs

    def optimizer(given: Given) -> optax.GradientTransformation:
        schedule = warmup_schedule(
            given.learning_rate,
            warmup_steps=given.iterations * updates * config.optimizer.warmup_fraction,
            total_steps=given.iterations * updates,
            cosine=False,
        )
        tx = adamw(
            schedule,
            weight_decay=config.optimizer.weight_decay,
            clip_by_global_norm=config.optimizer.clip_by_global_norm,
        )
        # A gradient that is not finite changes nothing, and is counted.
        return optax.apply_if_finite(tx, max_consecutive_errors=2**30)

    def initial(given: Given, policy: Params) -> RunState:
        key = jax.random.fold_in(jax.random.key(given.seed), 1)
        params = {"policy": policy}
        if how.objective == "ppo":
            hidden = jnp.zeros((1, 1, context.model.config.width))
            params["critic"] = context.critic.init(jax.random.fold_in(key, 0), hidden)
        average = policy if how.objective == "sdft" else None
        return RunState(init_state(params, optimizer(given), key), average)

    def draw(state: RunState, given: Given, key: jax.Array) -> tuple[Rows, Metrics]:
        rule_key, hand_key = jax.random.split(key)
        rule = jax.random.randint(rule_key, (), 0, given.tasks.target.shape[0])
        task = jax.tree.map(lambda leaf: leaf[rule], given.tasks)
        if setting.fixed:
            pool = jax.random.fold_in(jax.random.key(given.seed), 2)
            number = jax.random.randint(hand_key, (sizes.prompts,), 0, sizes.fixed_hands)
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(pool, number)
        else:
            keys = jax.random.split(hand_key, sizes.prompts)
        keys, answer_keys = spread(keys, mesh), None
        if setting.fixed:  # a hand that comes again is answered afresh
            answers = jax.random.split(jax.random.fold_in(key, 1), sizes.prompts)
            answer_keys = spread(answers, mesh)
        if how.source == "expert":
            return demonstrations(task, keys), {}
        if how.source == "pairs":
            return preference_pairs(task, keys), {}
        players = {"base": given.base, "teacher": given.teacher}
        rows, metrics = episodes(
            player,
            players.get(how.source, state.train.params["policy"]),
            task,
            keys,
            temperature=config.temperature,
            turns=setting.turns,
            samples=sizes.samples,
            advantage=how.advantage,
            keep="solved" if how.source in ("base", "kept") else "all",
            answer_keys=answer_keys,
        )
        if how.objective == "sdft":
            shown = with_demonstration(task, jnp.repeat(keys, sizes.samples), rows)
            rows = dataclasses.replace(rows, shown=shown)
        return rows, metrics

    def iterate(state: RunState, given: Given) -> tuple[RunState, Metrics]:
        train = state.train
        key = jax.random.fold_in(train.key, train.step)
        draw_key, order_key = jax.random.split(key)
        rows, of_rows = draw(state, given, draw_key)
        others = Others(given.base, given.teacher, state.average)
        added = objective.prepare(context, train.params, others, rows)
        rows = dataclasses.replace(rows, added=jax.lax.stop_gradient(added))

        size = len(rows.tokens) // sizes.minibatches
        parts = None
        if size % mesh.size == 0:
            parts = Parts(
                count=mesh.size * fewest(size // mesh.size, config.rows_at_once),
                weight=objective.weight,
                add_up=functools.partial(add_up, mesh=mesh),
            )

        def loss(params, batch, key):
            # Rows that devices cannot share evenly would else lie whole on every one of them.
            batch = batch if parts else spread(batch, mesh)
            value, _ = objective.loss(context, params, others, batch)
            return value, {}

        step = make_train_step(loss, optimizer(given), parts)
        batches = in_minibatches(order_key, rows, sizes.minibatches, how.epochs)
        train, of_updates = jax.lax.scan(step, train, batches)
        metrics = {**of_rows, **jax.tree.map(jnp.mean, of_updates)}
        before, after = state.train.opt_state, train.opt_state  # of optax.apply_if_finite
        skipped = after.total_notfinite - before.total_notfinite  # type: ignore
        metrics["updates_skipped"] = skipped.astype(jnp.float32)
        metrics["learnt_from"] = jnp.mean(jnp.any(rows.mask, axis=1), dtype=jnp.float32)
        average = state.average
        if average is not None:
            decay = config.objective.sdft.average_decay
            average = optax.incremental_update(train.params["policy"], average, 1 - decay)
        return RunState(train, average), metrics

    return Run(initial, iterate, draw)


def sizes_of(arm: Arm, config: Any) -> Sizes:
    """Rows of an iteration: as many for every method, fewer episodes where they are longer."""
    rows, samples, turns = config.rows, 1, arm.setting.turns
    if arm.how.source in PLAYED:
        samples = config.samples
    prompts = max(rows // (samples * turns), config.minibatches)
    # Minibatches of one size: so many prompts at a time.
    prompts -= prompts % (config.minibatches // math.gcd(config.minibatches, samples))
    return Sizes(prompts, samples, config.minibatches, config.fixed_hands)


def in_minibatches(key: jax.Array, rows: Rows, count: int, epochs: int) -> Rows:
    """Rows in a new order for every epoch: leaves [epochs * count, B / count, ...]."""
    total = len(rows.tokens)
    if total % count:
        raise ValueError(f"minibatches={count} must divide the {total} rows of an iteration")
    orders = jax.vmap(lambda key: jax.random.permutation(key, total))(jax.random.split(key, epochs))
    order = orders.reshape(epochs * count, total // count)
    return jax.tree.map(lambda leaf: leaf[order], rows)
