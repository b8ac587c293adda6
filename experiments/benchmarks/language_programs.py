"""The product's programs on random weights and random rows: what the language benchmarks time.

Nothing here computes a loss or an answer: `Engine` joins the functions of `rlrazor.studies` as
`LanguageStudy` does, and compiles them alike.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from rlrazor.methods import methods
from rlrazor.methods.method import Method
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.policies.language import AnswerFormat, LanguagePolicy, make_language_policy
from rlrazor.runtime.mesh import (
    compile_once,
    global_rows,
    make_mesh,
    on_mesh,
    place,
    shapes_at,
    shardings_of,
)
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.studies import programs
from rlrazor.studies.device import OnDevice
from rlrazor.studies.host import learned
from rlrazor.studies.programs import Given, Optimization, RunState, Setup
from rlrazor.tasks.protocol import Observation, Task, Verdict
from rlrazor.types import Metrics, Params, Rows

LEARNING_RATE, UPDATES = 1e-5, 10_000
TOPOLOGY = "v5e:2x4"
SMALL = TransformerConfig(  # 4.07 million parameters
    vocabulary=512,
    width=256,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=64,
    mlp_width=1024,
    tied_head=True,
    scan_layers=False,  # as the studies' small base
)
TINY = dataclasses.replace(SMALL, width=32, layers=2, head_dim=8, mlp_width=64)  # for tests


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a step and an iteration work on."""

    rows: int = 64  # of an SFT step ...
    tokens: int = 128  # ... and of each
    prompts: int = 16
    samples: int = 8
    prompt_tokens: int = 64
    answer_tokens: int = 64


QUICK = Sizes(rows=8, tokens=16, prompts=4, samples=2, prompt_tokens=8, answer_tokens=8)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a config of the product says of how to compute, beside the shape and the mesh."""

    rows_at_once: int
    vocabulary_chunk: int
    optimization: Optimization


@struct.dataclass
class PromptState:
    prompt: jax.Array  # i32[P]
    terminated: jax.Array  # bool[]
    truncated: jax.Array  # bool[]


@struct.dataclass
class EvenBytes:
    """A task that costs nothing: random prompts, and a reward for every byte of an answer that
    leaves `remainder` when divided by two."""

    remainder: jax.Array  # i32[]
    vocabulary: int = struct.field(pytree_node=False)
    prompt_tokens: int = struct.field(pytree_node=False)

    def reset(self, key: jax.Array) -> PromptState:
        prompt = jax.random.randint(key, (self.prompt_tokens,), 0, self.vocabulary)
        return PromptState(prompt, jnp.bool_(False), jnp.bool_(False))

    def opening(self, state: PromptState) -> Observation:
        return Observation(state.prompt, jnp.int32(self.prompt_tokens))

    def reply(self, state: PromptState) -> Observation:
        return Observation(jnp.zeros(1, jnp.int32), jnp.int32(0))

    def step(self, state: PromptState, answer: jax.Array) -> tuple[PromptState, Verdict]:
        reward = jnp.mean(answer % 2 == self.remainder, dtype=jnp.float32)
        ended = dataclasses.replace(state, terminated=jnp.bool_(True))
        return ended, Verdict(reward, reward > 0.5)


class Engine:
    """A policy of random weights, and the programs that a study compiles for it.

    Weights are drawn when they are first asked for, where they belong on the mesh. The states of
    `methods.sft` and `methods.grpo` are alike, so one may go through the programs of both.
    """

    def __init__(self, shape: TransformerConfig, sizes: Sizes, mesh: Mesh, options: Options):
        self.shape, self.sizes, self.mesh = shape, sizes, mesh
        self.policy: LanguagePolicy = make_language_policy(
            shape,
            mesh,
            answers=endless_answers(shape.vocabulary, sizes.answer_tokens),
            sampling=Sampling(1.0),
            vocabulary_chunk=options.vocabulary_chunk,
        )

        def setup(method: Method, rows: int, samples: int) -> Setup:
            work = programs.Sizes(rows, samples, rows_at_once=options.rows_at_once)
            return Setup(self.policy, method, work, options.optimization)

        self.sft = setup(methods.sft, sizes.rows, 1)
        self.grpo = setup(methods.grpo, sizes.prompts * sizes.samples, sizes.samples)
        task = EvenBytes(jnp.zeros((), jnp.int32), shape.vocabulary, sizes.prompt_tokens)
        self.tasks: Task = jax.tree.map(lambda leaf: leaf[None], task)  # one version of it

    def init(self, key: jax.Array) -> Params:
        return Transformer(self.shape).init(key, jnp.zeros((1, 2), jnp.int32))

    @functools.cached_property
    def params(self) -> Params:
        """Random, of the base; never whole on one device of several that share them."""
        at = on_mesh(self.mesh)
        if not self.policy.replicated:
            shapes = jax.eval_shape(self.init, jax.random.key(0))
            at = shardings_of(shapes, self.policy.rules, self.mesh)
        return compile_once(self.init, out=at)(jax.random.key(0))

    @property
    def parameters(self) -> int:
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    def given(self, base: Params) -> Given:
        return Given(
            base=base,
            teacher=None,
            learning_rate=jnp.float32(LEARNING_RATE),
            iterations=jnp.int32(UPDATES),
            seed=jnp.int32(0),
        )

    def begin(self) -> tuple[RunState, Given]:
        """A state to be donated, and what it does not change."""
        given = place(self.given(None), on_mesh(self.mesh)).replace(base=self.params)
        begin = functools.partial(programs.initial, self.sft)
        shapes = jax.eval_shape(begin, given, self.params)
        at = programs.state_shardings(self.sft, shapes)
        return compile_once(begin, out=at)(given, self.params), given

    def training(self, fn: Callable[..., tuple[RunState, Metrics]], state: Any) -> Callable:
        """`fn(state, given, ...)` compiled as `OnDevice` and `OnHost` do; the state is donated."""
        at = programs.state_shardings(self.sft, state)
        return compile_once(fn, donate=(0,), out=(at, on_mesh(self.mesh)))

    def learning(self, setup: Setup, state: Any) -> Callable:
        """(state, given, rows) -> (state, metrics): the updates of an iteration."""
        return self.training(functools.partial(learned, setup), state)

    def iterating(self, state: Any) -> Callable:
        """(state, given, tasks) -> (state, metrics): answers drawn, judged and learnt from."""
        return self.training(OnDevice(self.tasks).iteration(self.grpo), state)

    def drawing(self) -> Callable:
        """(state, given, tasks) -> rows: `iterating` without its updates."""
        on_device = OnDevice(self.tasks)

        def draw(state: RunState, given: Given, tasks: Task) -> Rows:
            key, _ = jax.random.split(programs.draw_key(state, given))
            return on_device.draw(self.grpo, state, given, tasks, key)[0]

        return compile_once(draw)

    def demonstrations(self, key: jax.Array) -> Rows:
        """Random rows, of which all tokens but the first are learnt."""
        B, T = self.sizes.rows, self.sizes.tokens
        tokens = jax.random.randint(key, (B, T), 0, self.shape.vocabulary)
        mask = jnp.broadcast_to(jnp.arange(T) > 0, (B, T))
        return Rows(tokens, jnp.full(B, T, jnp.int32), mask)


def endless_answers(vocabulary: int, tokens: int) -> AnswerFormat:
    """No token stops an answer: each has its full length."""
    ids = jnp.arange(vocabulary)
    spelling = (ids % 255 + 1).astype(jnp.uint8)[:, None], jnp.ones_like(ids)
    return AnswerFormat(make_stops([[vocabulary]]), spelling, tokens=tokens, bytes=tokens)


def calls_of(engine: Engine) -> dict[str, Callable[[], None]]:
    """An SFT step, a GRPO iteration, and its two parts; each returns when all is computed."""
    state, given = engine.begin()
    tasks = place(engine.tasks, on_mesh(engine.mesh))
    demonstrations = global_rows(engine.demonstrations(jax.random.key(1)), engine.mesh)
    drawing = engine.drawing()
    drawn: Rows = drawing(state, given, tasks)
    held = [state]

    def training(program: Callable, what: Any) -> Callable[[], None]:
        def call() -> None:
            held[0], metrics = jax.block_until_ready(program(held[0], given, what))
            if metrics["updates_skipped"] > 0:
                raise ValueError("the gradient is not finite, so speed means nothing")

        return call

    return {
        "sft_step": training(engine.learning(engine.sft, state), demonstrations),
        "grpo_iteration": training(engine.iterating(state), tasks),
        "grpo_rollout": lambda: jax.block_until_ready(drawing(held[0], given, tasks)),
        "grpo_update": training(engine.learning(engine.grpo, state), drawn),
    }


def compile_for_tpu(shape: TransformerConfig, sizes: Sizes, options: Options) -> dict[str, Any]:
    """Compile seconds of an SFT step and a GRPO iteration, for chips that need not be there."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    mesh = make_mesh(data=0, devices=topology.devices)
    engine = Engine(shape, sizes, mesh, options)

    def shapes(fn: Callable, *arguments: Any) -> Any:
        return shapes_at(jax.eval_shape(fn, *arguments), on_mesh(mesh))

    key = jax.eval_shape(lambda: jax.random.key(0))
    base = shapes(engine.init, key)
    given = shapes(engine.given, base)
    state = shapes(functools.partial(programs.initial, engine.sft), given, base)
    found: dict[str, Any] = {"topology": TOPOLOGY, "jax": jax.__version__}
    for name, program, what in (
        ("sft", engine.learning(engine.sft, state), shapes(engine.demonstrations, key)),
        ("grpo", engine.iterating(state), shapes(lambda: engine.tasks)),
    ):
        start = time.perf_counter()
        program.lower(state, given, what).compile()  # type: ignore[attr-defined]
        found[f"{name}_compile_seconds"] = time.perf_counter() - start
    return found
