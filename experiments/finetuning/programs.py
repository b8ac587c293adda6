"""The compiled programs of fine-tuning a language model on a mesh: begin, imitate, sample, learn.

One builder serves the run and the plan: what is compiled for a topology that is not there is what
will run on it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from rlrazor.losses.nll import nll
from rlrazor.losses.ppo_clip import ppo_clip
from rlrazor.models.cache import KVCache, init_cache, repeat_rows
from rlrazor.models.lora import init_lora, lora_rules, merge, train_beside
from rlrazor.models.partition import CACHE_RULES, transformer_rules
from rlrazor.models.pretrained import parameter_shapes
from rlrazor.models.scoring import over_vocabulary
from rlrazor.models.transformer import Transformer, appender
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.ops.advantages import centred
from rlrazor.ops.aggregate import scaled_sum
from rlrazor.ops.entropy import entropy
from rlrazor.ops.kl import kl
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.ops.sequences import append, between
from rlrazor.runtime.mesh import (
    compile_once,
    cut_rows,
    for_decoding,
    holders_of,
    in_turn,
    layout,
    on_mesh,
    shapes_at,
    shardings_of,
)
from rlrazor.sampling.decode import Sampling, Stops, decode
from rlrazor.training.parts import Parts
from rlrazor.training.state import TrainState, init_state
from rlrazor.training.step import StepFn, make_train_step
from rlrazor.types import ROWS, LossFn, Metrics, Params


@struct.dataclass
class Rows:
    """Rows to learn from or to measure on; real tokens come first, padding last."""

    tokens: jax.Array  # i32[B, T]
    count: jax.Array  # i32[B] real tokens
    mask: jax.Array  # bool[B, T] tokens that the policy says


@struct.dataclass
class Answers(Rows):
    """Rows whose masked tokens the policy drew; G rows of a prompt follow each other."""

    behaviour_logprobs: jax.Array  # f32[B, T]
    stopped: jax.Array  # bool[B] by a stop sequence, not by the limit


@struct.dataclass
class Prompts:
    """What is to be answered."""

    tokens: jax.Array  # i32[P, T]
    count: jax.Array  # i32[P] real tokens


@dataclasses.dataclass(frozen=True)
class Knobs:
    """What programs depend on beside the model, the mesh and the optimizer."""

    samples: int  # G, answers to a prompt
    answer_tokens: int  # at most
    clip_low: float
    clip_high: float
    row_parts: int  # into which a batch is cut, one gradient after the other
    vocabulary_chunk: int  # tokens of a row whose logits are in memory at a time
    lora_rank: int  # 0 trains all parameters
    lora_alpha: float
    lora_targets: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled when first called for a shape; states and parameters lie by the model's rules.

    A state holds what is trained: all parameters, or adapters. The base goes where it is read
    beside them, and is None where all parameters are trained.
    """

    initial: Callable[[Params, jax.Array], TrainState]  # (base, key)
    policy: Callable[[Params, Params | None], Params]  # (trained, base) -> all parameters
    imitate: Callable[[TrainState, Params | None, Rows], tuple[TrainState, Metrics]]
    # (policy, prompts, key, temperature f32[]): `samples` answers to each prompt, or one
    sample: Callable[[Params, Prompts, jax.Array, jax.Array], Answers]
    answer: Callable[[Params, Prompts, jax.Array, jax.Array], Answers]
    # (state, base, answers, rewards f32[B])
    reinforce: Callable[..., tuple[TrainState, Metrics]]
    measure: Callable[[Params, Params, Rows], Metrics]  # (policy, base, rows) -> sums over tokens
    state: Any  # shapes of a TrainState, each with where it lies
    params: Any  # of all parameters
    rows_at: Any  # where rows [B, ...] and prompts lie


def build(
    config: TransformerConfig,
    tx: optax.GradientTransformation,
    stops: Stops,
    knobs: Knobs,
    mesh: Mesh,
) -> Programs:
    of_model = transformer_rules(config)
    rules = (*of_model, *lora_rules(of_model))
    model = Transformer(config, layout(mesh, rules))
    logprobs = functools.partial(_logprobs, model, size=knobs.vocabulary_chunk)
    parts = Parts(
        count=knobs.row_parts,
        weight=lambda rows: jnp.sum(rows.mask),
        add_up=lambda fn: in_turn(fn, rules, mesh),
        cut=functools.partial(cut_rows, mesh=mesh),
    )

    def imitation(params: Params, rows: Rows, key: jax.Array) -> tuple[jax.Array, Metrics]:
        return nll(logprobs(params, rows), rows.mask)

    def reinforcement(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """The loss of Dr. GRPO, which RL's Razor uses and calls GRPO."""
        answers, advantages = batch
        found = logprobs(params, answers)
        loss, metrics = ppo_clip(
            found,
            answers.behaviour_logprobs,
            jnp.broadcast_to(advantages[:, None], found.shape),
            answers.mask,
            clip_low=knobs.clip_low,
            clip_high=knobs.clip_high,
            aggregate=functools.partial(scaled_sum, length=knobs.answer_tokens),
        )
        return loss, metrics

    by_answer = dataclasses.replace(
        parts, weight=lambda batch: jnp.sum(jnp.any(batch[0].mask, axis=1))
    )
    rank, scale = knobs.lora_rank, knobs.lora_alpha / max(knobs.lora_rank, 1)

    def stepper(loss: LossFn, parts: Parts, base: Params | None) -> StepFn:
        beside = train_beside(loss, base, scale) if rank else loss
        return make_train_step(beside, tx, parts)

    def initial(base: Params, key: jax.Array) -> TrainState:
        trained = base
        if rank:
            draw = jax.random.fold_in(key, 0)
            trained = init_lora(draw, base, targets=knobs.lora_targets, rank=rank)
        return init_state(trained, tx, key)

    def imitate(state: TrainState, base: Params | None, rows: Rows) -> tuple[TrainState, Metrics]:
        return stepper(imitation, parts, base)(state, rows)

    def reinforce(
        state: TrainState, base: Params | None, answers: Answers, rewards: jax.Array
    ) -> tuple[TrainState, Metrics]:
        advantages = centred(rewards.reshape(-1, knobs.samples)).reshape(-1)
        step = stepper(reinforcement, by_answer, base)
        state, metrics = step(state, (answers, advantages))
        tokens = jnp.maximum(metrics["tokens"], 1)
        means = {name: metrics[name] / tokens for name in ("ratio", "clipped_low", "clipped_high")}
        return state, {**metrics, **means, **_of_answers(answers, rewards, knobs.samples)}

    def sampler(samples: int) -> Callable[..., Answers]:
        def sample(params: Params, prompts: Prompts, key: jax.Array, temperature: Any) -> Answers:
            held = for_decoding(params, rules, mesh, config.compute_dtype)
            length, how = knobs.answer_tokens, Sampling(temperature)
            return _sample(model, held, prompts, key, how, stops, samples, length, mesh)

        return compile_once(sample, out=rows_at)

    def measure(policy: Params, base: Params, rows: Rows) -> Metrics:
        states = [(params, _hidden(model, params, rows)) for params in (policy, base)]
        found = over_vocabulary(
            _compare, model, states, rows.tokens[:, 1:], size=knobs.vocabulary_chunk
        )
        mask = rows.mask[:, 1:]
        sums = {name: jnp.sum(jnp.where(mask, value, 0.0)) for name, value in found.items()}
        answers = jnp.sum(jnp.any(mask, axis=1), dtype=jnp.float32)
        return {**sums, "tokens": jnp.sum(mask, dtype=jnp.float32), "answers": answers}

    params = parameter_shapes(config)
    params_at = shardings_of(params, rules, mesh)
    state = jax.eval_shape(initial, params, jax.random.key(0))
    state_at, rows_at = shardings_of(state, rules, mesh), on_mesh(mesh, ROWS)
    merged = compile_once(lambda lora, base: merge(base, lora, scale), out=params_at)
    whole = on_mesh(mesh)
    return Programs(
        initial=compile_once(initial, out=state_at),
        policy=merged if rank else lambda trained, base: trained,
        imitate=compile_once(imitate, donate=(0,), out=(state_at, whole)),
        sample=sampler(knobs.samples),
        answer=sampler(1),
        reinforce=compile_once(reinforce, donate=(0,), out=(state_at, whole)),
        measure=compile_once(measure, out=whole),
        state=shapes_at(state, state_at),
        params=shapes_at(params, params_at),
        rows_at=rows_at,
    )


def _hidden(model: Transformer, params: Params, rows: Rows) -> jax.Array:  # [B, T - 1, D]
    hidden: Any = model.apply(params, rows.tokens, count=rows.count)[0]
    return hidden[:, :-1]


def _logprobs(model: Transformer, params: Params, rows: Rows, *, size: int) -> jax.Array:
    """f32[B, T] log pi(token | those before it); 0 for the first, which has none."""
    states = [(params, _hidden(model, params, rows))]
    found = over_vocabulary(token_logprobs, model, states, rows.tokens[:, 1:], size=size)
    return jnp.pad(found, ((0, 0), (1, 0)))


def _compare(policy: jax.Array, base: jax.Array, tokens: jax.Array) -> Mapping[str, jax.Array]:
    """Of logits f32[B, n, V]: how far apart the two are, exactly, in nats."""
    log_policy, log_base = jax.nn.log_softmax(policy), jax.nn.log_softmax(base)
    return {
        "kl_base_policy_nats": kl(log_base, log_policy),
        "kl_policy_base_nats": kl(log_policy, log_base),
        "entropy_nats": entropy(log_policy),
        "nll_nats": -token_logprobs(policy, tokens),
    }


def _of_answers(answers: Answers, rewards: jax.Array, samples: int) -> Metrics:
    groups = rewards.reshape(-1, samples)
    said = jnp.sum(answers.mask, axis=1)
    tokens = jnp.maximum(jnp.sum(said), 1)
    return {
        "reward": jnp.mean(rewards),
        "groups_alike": jnp.mean(jnp.ptp(groups, axis=1) == 0, dtype=jnp.float32),
        "answer_tokens": jnp.mean(said, dtype=jnp.float32),
        "answer_cut": jnp.mean(~answers.stopped, dtype=jnp.float32),
        "sampled_nll_nats": -jnp.sum(answers.behaviour_logprobs) / tokens,
    }


def _sample(
    model: Transformer,
    params: Params,
    prompts: Prompts,
    key: jax.Array,
    sampling: Sampling,
    stops: Stops,
    samples: int,
    length: int,
    mesh: Mesh,
) -> Answers:
    """Every prompt is read once, or as often as devices need rows, and answered G times."""
    (P, T), G, N = prompts.tokens.shape, samples, length
    holders = holders_of(mesh)
    readings = holders // math.gcd(holders, P)
    if G % readings:
        raise ValueError(
            f"{P} prompts of {G} answers are {P * G} rows, which {holders} devices cannot share; "
            f"let prompts x samples be a multiple of {holders} and samples one of {readings}"
        )

    def lie(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, on_mesh(mesh, ROWS))

    def lie_cached(cache: KVCache) -> KVCache:
        return jax.lax.with_sharding_constraint(cache, shardings_of(cache, CACHE_RULES, mesh))

    read = appender(model, params)
    opened = lie(jax.tree.map(lambda x: jnp.repeat(x, readings, axis=0), prompts))
    cache = init_cache(model.config, P * readings, T + N, model.config.compute_dtype)
    logits, cache = read(lie_cached(cache), opened.tokens, opened.count)
    again = G // readings
    cache = lie_cached(repeat_rows(cache, again))
    rows = lie(jax.tree.map(lambda x: jnp.repeat(x, again, axis=0), (opened, logits)))
    prompt, logits = rows
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(P * G))
    active = jnp.ones(P * G, bool)
    found = decode(read, cache, logits, keys, active, sampling, stops, size=N)

    def join(asked, asked_count, said, said_count, drawn):
        row = jnp.zeros(T + N, jnp.int32), jnp.int32(0)
        tokens, count = append(append(row, asked, asked_count), said, said_count)
        behaviour = jnp.zeros(T + N), asked_count
        logprobs, _ = append(behaviour, drawn, said_count)
        return tokens, count, between(asked_count, count, T + N), logprobs

    tokens, count, mask, behaviour = jax.vmap(join)(
        prompt.tokens, prompt.count, found.tokens, found.length, found.behaviour_logprobs
    )
    return Answers(tokens, count, mask, behaviour, found.stopped)
