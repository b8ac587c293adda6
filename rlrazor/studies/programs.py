"""What is compiled of any method on any policy: to begin a run, and to learn from rows.

Everything random follows from the seed and the number of updates so far, each use from a stream of
its own: a resumed run draws what the uninterrupted one would have drawn.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from rlrazor.methods.method import Episodes, Method, Reads
from rlrazor.methods.sources import kept, with_advantages
from rlrazor.models.value_head import ValueHead
from rlrazor.policies.policy import Policy
from rlrazor.runtime.mesh import (
    add_up,
    cut_rows,
    each_alone,
    holders_of,
    in_turn,
    join_rows,
    on_mesh,
    shardings_of,
)
from rlrazor.training.optimizer import adamw, warmup_schedule, with_masters
from rlrazor.training.parts import Parts, consecutive, fewest
from rlrazor.training.state import TrainState, init_state
from rlrazor.training.step import make_train_step
from rlrazor.types import FloatName, Metrics, Params, Rows, Rule

# Streams of a run's seed: what each is folded with. No two uses draw from the same.
DRAWS, POOL, LOSS, CRITIC, ADAPTERS = 1, 2, 3, 4, 5


@struct.dataclass
class RunState:
    """A run between two iterations."""

    train: TrainState  # params: {"policy": what is trained, "critic": where there is one}
    average: Params | None  # moving average of what is trained, where a method reads it


@struct.dataclass
class Given:
    """What a run reads and never changes; hyperparameters are data: seeds share a program."""

    base: Params
    teacher: Params | None  # what was trained of it
    learning_rate: jax.Array  # f32[]
    iterations: jax.Array  # i32[] of the whole run
    seed: jax.Array  # i32[]

    def stream(self, of: int) -> jax.Array:
        """The key of one use of the run's seed."""
        return jax.random.fold_in(jax.random.key(self.seed), of)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes of an iteration."""

    rows: int  # demonstrations or episodes
    samples: int = 1  # G of a prompt, where answers are sampled
    minibatches: int = 1  # updates an iteration and epoch
    rows_at_once: int = 8  # of a device, whose gradient is worked out in one go

    @property
    def prompts(self) -> int:
        return self.rows // self.samples


@dataclasses.dataclass(frozen=True)
class Optimization:
    """AdamW, and how its learning rate begins and ends."""

    warmup_steps: int | None = None  # of the optimizer; None: the fraction
    warmup_fraction: float = 0.05  # of all updates
    cosine: bool = False
    weight_decay: float = 0.0
    clip_by_global_norm: float = 1.0
    mu_dtype: FloatName = "float32"
    nu_dtype: FloatName = "float32"
    masters: bool = False  # copies in f32 of parameters in bf16

    def make(self, learning_rate: Any, updates: Any) -> optax.GradientTransformation:
        """A gradient that is not finite changes nothing, and is counted."""
        warmup = self.warmup_steps
        schedule = warmup_schedule(
            learning_rate,
            warmup_steps=updates * self.warmup_fraction if warmup is None else warmup,
            total_steps=updates,
            cosine=self.cosine,
        )
        tx = adamw(
            schedule,
            weight_decay=self.weight_decay,
            clip_by_global_norm=self.clip_by_global_norm,
            mu_dtype=self.mu_dtype,
            nu_dtype=self.nu_dtype,
        )
        tx = with_masters(tx) if self.masters else tx
        return optax.apply_if_finite(tx, max_consecutive_errors=2**30)


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that the programs of an arm depend on and no array is."""

    policy: Policy
    method: Method
    sizes: Sizes
    optimization: Optimization
    turns: int = 1  # answers of an episode, at most
    fixed: int = 0  # a pool of so many examples instead of fresh ones; 0: fresh
    side_by_side: int = 1  # runs of one program, each with a state and a `Given` of its own

    @property
    def updates(self) -> int:
        """Of the optimizer in an iteration."""
        return self.sizes.minibatches * self.method.epochs

    def optimizer(self, given: Given) -> optax.GradientTransformation:
        return self.optimization.make(given.learning_rate, given.iterations * self.updates)


def initial(setup: Setup, given: Given, start: Params) -> RunState:
    """The state before the first iteration; `start` is what was trained of the policy so far."""
    method = setup.method
    params = {"policy": start}
    if method.critic:
        state = jnp.zeros((1, 1, setup.policy.width))
        params["critic"] = ValueHead(method.critic).init(given.stream(CRITIC), state)
    average = start if method.reads("average") else None
    return RunState(init_state(params, setup.optimizer(given), given.stream(LOSS)), average)


def state_shardings(setup: Setup, state: Any) -> Any:
    """How a state (or its shapes) lies on the policy's mesh."""
    if setup.policy.replicated:
        return on_mesh(setup.policy.mesh)
    return shardings_of(state, _rules(setup.policy), setup.policy.mesh)


def _rules(policy: Policy) -> tuple[Rule, ...]:
    """Of all that is trained: a critic is small, and every device has it whole."""
    return (Rule("critic/.*", ()), *policy.rules)


def side_by_side(fn: Callable[..., Any], runs: int, *, shared: int = 0) -> Callable[..., Any]:
    """A function of one run as that of many, leaves [R, ...], in one program; 1: as it is.

    The last `shared` arguments are those of every run.
    """
    if runs == 1:
        return fn

    def of_all(*arguments: Any) -> Any:
        own = len(arguments) - shared
        return jax.vmap(fn, in_axes=(0,) * own + (None,) * shared)(*arguments)

    return of_all


def draw_key(state: RunState, given: Given) -> jax.Array:
    """What an iteration's prompts, answers and order follow from."""
    return jax.random.fold_in(given.stream(DRAWS), state.train.step)


def player(setup: Setup, state: RunState, given: Given) -> Params:
    """All parameters of whoever the method's answers are sampled from."""
    source = setup.method.source
    if not isinstance(source, Episodes):
        raise ValueError(f"{setup.method.name} learns from demonstrations, and samples nothing")
    trained = {"base": None, "teacher": given.teacher, "policy": state.train.params["policy"]}
    assembled = _assembled(setup.policy, trained[source.of], given.base)
    return given.base if assembled is None else assembled


def learn(
    setup: Setup, state: RunState, given: Given, rows: Rows, order_key: jax.Array
) -> tuple[RunState, Metrics]:
    """Every update of an iteration on its rows; metrics are means over the updates."""
    policy, method, sizes = setup.policy, setup.method, setup.sizes
    train = state.train
    fixed = Reads(
        base=given.base if method.reads("base") else None,
        teacher=_assembled(policy, given.teacher, given.base),
        average=_assembled(policy, state.average, given.base),
    )

    def read_by(trained: Params) -> tuple[Params, Reads]:
        params = policy.assemble(trained["policy"], given.base)
        return params, dataclasses.replace(fixed, critic=trained.get("critic"))

    if isinstance(method.source, Episodes):
        rows = kept(rows, method.source.keep)
    rows = with_advantages(method, rows)
    if method.prepare is not None:
        prepare = method.prepare

        def prepared(weights: tuple[Params, Reads], some: Rows) -> Rows:
            return prepare(policy, *weights, some, **method.knobs)

        rows = by_rows(prepared, policy, read_by(train.params), rows, sizes.rows_at_once)
    if method.normalise is not None:
        rows = method.normalise(rows, **method.knobs)
    rows = jax.lax.stop_gradient(rows)

    def loss(trained: Params, batch: Rows, key: jax.Array) -> tuple[jax.Array, Metrics]:
        params, reads = read_by(trained)
        return method.loss(policy, params, reads, batch)

    batches = minibatches(order_key, rows, sizes.minibatches, method.epochs)
    size = len(rows.tokens) // sizes.minibatches
    parts = microbatches(policy, size, sizes.rows_at_once, method.weight)
    multiple = holders_of(policy.mesh) * (1 if policy.replicated else parts.count)

    def padded(train: TrainState, batch: Rows) -> tuple[TrainState, Metrics]:
        return step(train, pad_rows(batch, -(-size // multiple) * multiple))

    step = make_train_step(loss, setup.optimizer(given), parts)
    train, of_updates = jax.lax.scan(padded, train, batches)
    before: Any = state.train.opt_state  # of optax.apply_if_finite
    after: Any = train.opt_state
    metrics = {
        **per_counted(jax.tree.map(jnp.mean, of_updates)),
        "updates_skipped": after.total_notfinite - before.total_notfinite,
        "learnt_from": jnp.mean(jnp.any(rows.mask, axis=1)),
        "row_tokens": jnp.sum(rows.count) * method.epochs,
    }
    average = state.average
    if average is not None:
        average = optax.incremental_update(
            train.params["policy"], average, 1 - method.average_decay
        )
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    return RunState(train, average), metrics


def _assembled(policy: Policy, trained: Params | None, base: Params) -> Params | None:
    return None if trained is None else policy.assemble(trained, base)


def per_counted(metrics: Metrics) -> Metrics:
    """Sums of losses as means over what they count: tokens, else sequences, pairs or turns."""
    counts = [name for name in ("tokens", "sequences", "pairs", "turns") if name in metrics]
    whole = {"loss", "gradient_norm", *counts}
    count = jnp.maximum(metrics[counts[0]], 1) if counts else 1
    return {name: x if name in whole else x / count for name, x in metrics.items()}


def microbatches(
    policy: Policy, rows: int, rows_at_once: int, weight: Callable[[Rows], jax.Array]
) -> Parts:
    """Gradient accumulation over a minibatch of so many rows, as the policy's mesh wants it."""
    devices = holders_of(policy.mesh)
    count = fewest(-(-rows // devices), rows_at_once)
    if policy.replicated:
        add = functools.partial(add_up, mesh=policy.mesh)
        return Parts(count * devices, weight, add)
    add = functools.partial(in_turn, rules=_rules(policy), mesh=policy.mesh)
    return Parts(count, weight, add, functools.partial(cut_rows, mesh=policy.mesh))


def pad_rows(rows: Rows, size: int) -> Rows:
    """As many rows as devices can share: those added say nothing, so they have no weight."""
    (B,) = rows.count.shape
    if size == B:
        return rows
    place = np.arange(size) % B
    real = jnp.arange(size) < B
    rows = jax.tree.map(lambda leaf: leaf[place], rows)
    return _silenced(rows, real)


def _silenced(rows: Rows, real: jax.Array) -> Rows:  # bool[B]
    rejected, turns = rows.rejected, rows.turns
    if rejected is not None:
        rejected = _silenced(rejected, real)
    if turns is not None:
        turns = dataclasses.replace(turns, played=turns.played & real[:, None])
    mask = rows.mask & real[:, None]
    return dataclasses.replace(rows, mask=mask, rejected=rejected, turns=turns)


def by_rows(
    fn: Callable[[Any, Rows], Any], policy: Policy, shared: Any, rows: Rows, rows_at_once: int
) -> Any:
    """Inside a compiled function: fn(shared, rows) -> tree [B, ...], some rows at a time."""
    (B,) = rows.count.shape
    mesh, devices = policy.mesh, holders_of(policy.mesh)
    count = fewest(-(-B // devices), rows_at_once)
    multiple = devices * count
    padded = pad_rows(rows, -(-B // multiple) * multiple)

    def in_parts(shared, parts):  # [count, b, ...]
        return jax.lax.map(lambda part: fn(shared, part), parts)

    if policy.replicated:

        def alone(shared, mine):
            found = in_parts(shared, consecutive(mine, count))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

        found = each_alone(alone, mesh)(shared, padded)
    else:
        found = join_rows(in_parts(shared, cut_rows(padded, count, mesh)), mesh)
    return jax.tree.map(lambda x: x[:B], found)


def by_keys(fn: Callable[[Any, jax.Array], Any], mesh: Mesh, shared: Any, keys: jax.Array) -> Any:
    """Inside a compiled function: fn(shared, keys) -> tree [P, ...], each device for its keys."""
    (P,) = keys.shape
    padded = keys[np.arange(-(-P // mesh.size) * mesh.size) % P]
    found = each_alone(fn, mesh)(shared, padded)
    return jax.tree.map(lambda x: x[:P], found)


def minibatches(key: jax.Array, rows: Rows, count: int, epochs: int) -> Rows:
    """Rows in a new order for every epoch, samples of a prompt together: [epochs * count, ...]."""
    (B,) = rows.count.shape
    prompts = B // rows.samples
    if prompts % count:
        raise ValueError(f"minibatches={count} must divide the {prompts} prompts of an iteration")
    orders = jax.vmap(lambda key: jax.random.permutation(key, prompts))(
        jax.random.split(key, epochs)
    )
    order = orders[..., None] * rows.samples + np.arange(rows.samples)[None, None]
    order = order.reshape(epochs * count, B // count)
    return jax.tree.map(lambda leaf: leaf[order], rows)
