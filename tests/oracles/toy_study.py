"""A toy study: digits to be summed, a function of two matrices as the model, worlds made of them.

The model and its twin in float64 are those of `toy_policy`.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.methods import methods
from rlrazor.runtime.mesh import compile_once, make_mesh
from rlrazor.studies import measurements as measure
from rlrazor.studies.device import OnDevice, itself
from rlrazor.studies.language import Base, LanguageStudy, Settings
from rlrazor.studies.plan import Arm
from rlrazor.studies.programs import Given, Optimization, Setup, Sizes, initial
from rlrazor.studies.world import World
from rlrazor.tasks.protocol import Verdict
from tests.oracles import toy_policy
from tests.oracles.toy_policy import END, ZERO, Sums, V

QUIET = {"tensorboard": False, "checkpoint_every_seconds": 1e9}  # how `drive` is called
PPO = methods.ppo.tuned(answer_token=5, critic=(3,), epochs=2)
METHODS = {**methods.all_methods(), "ppo": PPO}
IMITATION = (
    "sft",
    "dft",
    "eaft",
    "talr",
    "psft",
    "sft_kl_base_policy",
    "simpo",
    "dpo",
    "sft_kl_prior",
)


@struct.dataclass
class DigitSum(Sums):
    """`Sums` in versions: the right sum is moved by `shift`, and `pay` is what a unit earns."""

    shift: jax.Array  # i32[]
    pay: jax.Array  # f32[]

    def step(self, state, answer):
        worth = jnp.sum(jnp.where(answer > 0, answer.astype(jnp.int32) - 48, 0))
        worth = (worth + jnp.sum(state.digits) + self.shift) % 4
        correct, turn = worth == 3, state.turn + 1
        new = dataclasses.replace(
            state, turn=turn, heard=answer[0].astype(jnp.int32), terminated=correct,
            truncated=~correct & (turn >= self.budget),
        )  # fmt: skip
        return new, Verdict(worth * self.pay, correct, {"low": worth == 0})

    def demonstrate(self, key, state):
        lacking = (3 - jnp.sum(state.digits) - self.shift) % 4
        first = jax.random.randint(key, (), 0, lacking + 1)
        both = ZERO + jnp.stack([first, lacking - first])
        length = jnp.where(first == lacking, 1, 2)
        return jnp.where(jnp.arange(2) < length, both, 0).astype(jnp.int32), length

    def mistake(self, key, state):
        return ZERO + jax.random.randint(key, (2,), 0, V - ZERO), jnp.int32(2)


def task(shift=0, budget=3, pay=1.0):
    return DigitSum(jnp.int32(budget), jnp.int32(shift), jnp.float32(pay))


def stacked(*tasks):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


@functools.cache
def on_device(*shifts, pay=1.0):
    tasks = stacked(*(task(s, pay=pay) for s in shifts or (0,)))
    return OnDevice(tasks, expert=itself, end=END, anchors=stacked(task(2), task(3)))


@functools.cache
def policy(devices=1, temperature=1.0):
    return toy_policy.policy(temperature, mesh=make_mesh(data=devices))


def sizes_of(method, *, rows=12, samples=3, minibatches=2, rows_at_once=4):
    return Sizes(rows, 1 if method.name in IMITATION else samples, minibatches, rows_at_once)


@functools.cache
def setup(name, *, devices=1, turns=1, fixed=0, temperature=1.0, tuned=(), optimizer=(), **sizes):
    method = METHODS[name].tuned(**dict(tuned))
    how = Optimization(**{"warmup_steps": 0, **dict(optimizer)})
    where = policy(devices, temperature)
    return Setup(where, method, sizes_of(method, **sizes), how, turns, fixed)


def given(seed=0, learning_rate=0.05, iterations=4):
    base, teacher = toy_policy.make(0), toy_policy.make(1)
    return Given(
        jax.tree.map(jnp.asarray, base), jax.tree.map(jnp.asarray, teacher),
        jnp.float32(learning_rate), jnp.int32(iterations), jnp.int32(seed),
    )  # fmt: skip


@functools.cache
def program(name, **options):
    """(begin, iterate) of a setup, compiled; versions of the task are an argument of the second."""
    made = setup(name, **options)
    begin = functools.partial(initial, made)
    return compile_once(begin), compile_once(on_device().iteration(made))


def run(name, count=1, *, tasks=None, known=None, state=None, **options):
    """The state and the metrics after some iterations, on the host."""
    begin, iterate = program(name, **options)
    known, tasks = known or given(), on_device().tasks if tasks is None else tasks
    state, found = begin(known, known.base) if state is None else state, []
    for _ in range(count):
        state, metrics = iterate(state, known, tasks)
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found


@functools.cache
def _draw(name, **options):
    made = setup(name, **options)

    def draw(start, known, tasks, key):
        state = initial(made, known, start)
        return on_device().draw(made, state, known, tasks, key)

    return compile_once(draw)


def drawn(name, seed=0, *shifts, start=None, known=None, **options):
    """Rows and metrics of a draw, on the host."""
    known = known or given()
    start = known.base if start is None else start
    draw = _draw(name, **options)
    return jax.device_get(draw(start, known, on_device(*shifts).tasks, jax.random.key(seed)))


def text_of(tokens):
    return [int(t) for t in tokens if t >= ZERO]


def worth(digits, answer, shift=0):
    """The judge once more, in Python, on tokens."""
    return (sum(t - ZERO for t in text_of(answer)) + int(np.sum(digits)) + shift) % 4


def prompt_digits(row):
    return np.asarray(row[:2]) - ZERO


# Worlds, and a study of them.


def measurements(policy, *, examples=8, at_once=4, rows_at_once=4):
    how = {"examples": examples, "at_once": at_once}
    prior = stacked(task(1), task(2))
    one = stacked(task())
    return [
        measure.success(policy, "new", task(), **how),
        measure.success(policy, "shift/sum", task(1), **how),
        measure.suites(policy, ("one", "two"), prior, **how),
        measure.divergence(policy, "new", one, rows_at_once=rows_at_once, **how),
        measure.divergence(
            policy, "prior", prior, rows_at_once=rows_at_once, part=measure.PRIOR_SAMPLES,
            own=False, **how,
        ),
    ]  # fmt: skip


@functools.cache
def world(devices=1, **sizes):
    return World(on_device(), measurements(policy(devices), **sizes))


@functools.cache
def base(devices=1, seed=0):
    where = policy(devices)
    params = jax.device_put(toy_policy.make(seed), jax.sharding.NamedSharding(
        where.mesh, jax.sharding.PartitionSpec()))  # fmt: skip
    return Base(f"toy{seed or ''}", where, params, about={"n": seed} if seed else {})


def arm(name, /, **changes):
    method = METHODS[name]
    plain = {
        "name": name, "method": method, "world": world(), "sizes": sizes_of(method),
        "learning_rates": (0.05,), "teacher": method.teacher,
    }  # fmt: skip
    return Arm(**{**plain, **changes})


def study(*arms, devices=1, seeds=(0,), steps=2, bases=None, **settings):
    how = Settings(**{"study": "toy", "checkpoints": (0.5, 1.0), **settings})
    arms = [arm(each) if isinstance(each, str) else each for each in arms]
    start = bases or base(devices)
    return LanguageStudy(start, world(), arms, seeds=seeds, steps=steps, settings=how)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
