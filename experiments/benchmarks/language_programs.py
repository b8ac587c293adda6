"""The compiled side of the language benchmark: an SFT step and a GRPO iteration, on all devices."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from experiments.general_points.language import answer_logprobs, group_logprobs
from rlrazor.losses.nll import nll
from rlrazor.losses.ppo_clip import ppo_clip
from rlrazor.models.cache import init_cache, repeat_rows
from rlrazor.models.transformer import Transformer, appender
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.ops.advantages import centred
from rlrazor.ops.aggregate import token_mean
from rlrazor.runtime.mesh import add_up, compile_once, each_alone, replicate, shard_runs
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.sampling.episodes import play
from rlrazor.tasks.protocol import Observation, Verdict
from rlrazor.training.optimizer import adamw
from rlrazor.training.parts import Parts
from rlrazor.training.state import TrainState, init_state
from rlrazor.training.step import make_train_step
from rlrazor.types import Metrics, Params

LEARNING_RATE, CLIP_BY_GLOBAL_NORM, CLIP = 1e-5, 1.0, 0.2
SMALL = TransformerConfig(
    vocabulary=512,
    width=256,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=64,
    mlp_width=1024,
    tied_head=True,
    scan_layers=False,
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a step and an iteration work on."""

    rows: int = 64  # of an SFT step ...
    tokens: int = 128  # ... and of each
    prompts: int = 16
    samples: int = 8
    prompt_tokens: int = 64
    answer_tokens: int = 64
    rows_at_once: int = 8  # whose gradient a device works out in one go; whole groups


@struct.dataclass
class Batch:
    """Rows to learn from."""

    tokens: jax.Array  # i32[B, T]
    mask: jax.Array  # bool[B, T]


@struct.dataclass
class Drawn(Batch):
    """Rows of answers that the policy gave."""

    behaviour_logprobs: jax.Array  # f32[B, T]
    advantages: jax.Array  # f32[B, T]


@struct.dataclass
class _State:
    prompt: jax.Array  # i32[P]
    terminated: jax.Array
    truncated: jax.Array


@dataclasses.dataclass(frozen=True)
class EvenBytes:
    """A task that costs nothing: random prompts, and a reward for every even byte of an answer."""

    vocabulary: int
    prompt_tokens: int

    def reset(self, key: jax.Array) -> _State:
        prompt = jax.random.randint(key, (self.prompt_tokens,), 0, self.vocabulary)
        return _State(prompt, jnp.bool_(False), jnp.bool_(False))

    def observe(self, state: _State) -> Observation:
        return Observation(state.prompt, jnp.int32(self.prompt_tokens))

    def step(self, state: _State, answer: jax.Array) -> tuple[_State, Verdict]:
        reward = jnp.mean(answer % 2 == 0, dtype=jnp.float32)
        return dataclasses.replace(state, terminated=jnp.bool_(True)), Verdict(
            reward, reward > 0.5, {}
        )


@dataclasses.dataclass(frozen=True)
class Programs:
    """Functions to be compiled; rows and keys lie spread over the mesh."""

    initial: Callable[[jax.Array], TrainState]  # of a key
    sft: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    rollout: Callable[[Params, jax.Array], Drawn]  # of key[P]
    update: Callable[[TrainState, Drawn], tuple[TrainState, Metrics]]
    iterate: Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]  # both of these


def build(config: TransformerConfig, sizes: Sizes, mesh: Mesh) -> Programs:
    model = Transformer(config)
    optimizer = adamw(
        lambda step: LEARNING_RATE, weight_decay=0.0, clip_by_global_norm=CLIP_BY_GLOBAL_NORM
    )

    def initial(key: jax.Array) -> TrainState:
        params = model.init(key, jnp.zeros((1, 2), jnp.int32))
        return init_state(params, optimizer, key)

    def imitate(params, batch: Batch, key):
        return nll(answer_logprobs(model, params, batch.tokens), batch.mask)

    def reinforce(params, batch: Drawn, key):
        prompt = jnp.full(len(batch.tokens), sizes.prompt_tokens)
        logprobs = group_logprobs(
            model,
            params,
            batch.tokens,
            prompt,
            samples=sizes.samples,
            prompt_size=sizes.prompt_tokens,
        )
        return ppo_clip(
            logprobs,
            batch.behaviour_logprobs,
            batch.advantages,
            batch.mask,
            clip_low=CLIP,
            clip_high=CLIP,
            aggregate=token_mean,
        )

    def step(loss, rows: int):
        parts = Parts(
            count=max(rows // sizes.rows_at_once, mesh.size),
            weight=lambda batch: jnp.sum(batch.mask),
            add_up=functools.partial(add_up, mesh=mesh),
        )
        return make_train_step(loss, optimizer, parts)

    # A token at a time, one layer that stays in the processor's cache is faster than many.
    sampler = Transformer(dataclasses.replace(config, scan_layers=True))
    rollout = each_alone(functools.partial(_rollout, sampler, sizes), mesh)
    update = step(reinforce, sizes.prompts * sizes.samples)

    def iterate(state: TrainState, keys: jax.Array) -> tuple[TrainState, Metrics]:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, state.step)
        return update(state, rollout(state.params, keys))

    return Programs(
        compile_once(initial),
        compile_once(step(imitate, sizes.rows), donate=(0,)),
        compile_once(rollout),
        compile_once(update, donate=(0,)),
        compile_once(iterate, donate=(0,)),
    )


def _rollout(model: Transformer, sizes: Sizes, params: Params, keys: jax.Array) -> Drawn:
    c = model.config
    ids = jnp.arange(c.vocabulary)
    spelling = (ids % 255 + 1).astype(jnp.uint8)[:, None], jnp.ones_like(ids)
    slots = sizes.prompt_tokens + sizes.answer_tokens
    played = play(
        EvenBytes(c.vocabulary, sizes.prompt_tokens),
        appender(model, params),
        init_cache(c, len(keys), slots, c.compute_dtype),
        keys,
        Sampling(),
        make_stops([[c.vocabulary]]),  # no token: every answer has its full length
        spelling,
        turns=1,
        answer_size=sizes.answer_tokens,
        answer_bytes=sizes.answer_tokens,
        samples=sizes.samples,
        repeat=repeat_rows,
    )
    advantages = centred(played.verdict.reward.reshape(-1, sizes.samples)).reshape(-1, 1)
    return Drawn(
        tokens=played.tokens,
        mask=played.chosen,
        behaviour_logprobs=played.behaviour_logprobs,
        advantages=jnp.broadcast_to(advantages, played.tokens.shape),
    )


def demonstrations(config: TransformerConfig, sizes: Sizes, key: jax.Array) -> Batch:
    """Random rows, of which all tokens but the first are learnt."""
    tokens = jax.random.randint(key, (sizes.rows, sizes.tokens), 0, config.vocabulary)
    return Batch(tokens, jnp.broadcast_to(jnp.arange(sizes.tokens) > 0, tokens.shape))


class Compiled:
    """The programs compiled and in a state to be called again and again."""

    def __init__(self, config: TransformerConfig, sizes: Sizes, mesh: Mesh):
        programs = build(config, sizes, mesh)
        state = replicate(programs.initial(jax.random.key(0)), mesh)
        draw = compile_once(functools.partial(demonstrations, config, sizes))
        batch = shard_runs(draw(jax.random.key(1)), mesh)
        keys = shard_runs(jax.random.split(jax.random.key(2), sizes.prompts), mesh)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        self.compile_seconds: dict[str, float] = {}

        def compiled(name, program, *arguments):
            start = time.perf_counter()
            executable = program.lower(*arguments).compile()
            self.compile_seconds[name] = time.perf_counter() - start
            return executable

        rollout = compiled("grpo_rollout", programs.rollout, state.params, keys)
        drawn = rollout(state.params, keys)
        self._state = state
        self.calls: dict[str, Callable[[], None]] = {
            "sft_step": self._training(compiled("sft_step", programs.sft, state, batch), batch),
            "grpo_iteration": self._training(
                compiled("grpo_iteration", programs.iterate, state, keys), keys
            ),
            "grpo_rollout": lambda: jax.block_until_ready(rollout(self._state.params, keys)),
            "grpo_update": self._training(
                compiled("grpo_update", programs.update, state, drawn), drawn
            ),
        }

    def _training(self, step: Callable, given: Any) -> Callable[[], None]:
        def call() -> None:
            self._state, metrics = jax.block_until_ready(step(self._state, given))
            if not bool(jnp.isfinite(metrics["gradient_norm"])):
                raise ValueError("the gradient is not finite, so speed means nothing")

        return call
