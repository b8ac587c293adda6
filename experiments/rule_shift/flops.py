"""What an iteration costs: by the paper's formula, and as XLA counts what it compiled."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.general_points.language import Player
from experiments.rule_shift.arms import PLAYED, Arm
from experiments.rule_shift.objectives import OBJECTIVES, Context, Others
from experiments.rule_shift.programs import Given, build_run, sizes_of
from rlrazor.models.cache import init_cache
from rlrazor.models.transformer import Transformer, appender
from rlrazor.runtime.mesh import compile_once
from rlrazor.types import Params


def flops_per_iteration(arm: Arm, config: Any, *, weights: int, tokens: int) -> float:
    """By the formula of SFT Memorizes, RL Generalizes: 6N a token trained on, 2N a token read.

    `tokens` of a row; N = `weights`. Sampling reads every token once. A teacher's own training is
    not in it.
    """
    how, sizes = arm.how, sizes_of(arm, config)
    passes = 6 * how.epochs + 2 * (how.source in PLAYED) + 2 * how.needs_base
    passes += 2 * (how.objective in ("psft", "on_policy_distillation", "ppo"))
    passes += 4 * (how.objective == "sdft")  # rows with a demonstration are twice as long
    rows = sizes.rows * (2 if how.source == "pairs" else 1)
    return float(weights * passes * rows * tokens)


def compiled_flops(
    arm: Arm,
    context: Context,
    player: Player,
    config: Any,
    mesh: Mesh,
    tasks: Any,
    base: Params,
) -> float:
    """The compiler's count of one iteration: updates, what prepares them, and sampling.

    XLA counts the body of a loop once, so layers are unrolled and loops over minibatches and tokens
    multiplied here. Answers are taken to be as long as they may be; cards and verdicts are not
    counted.
    """
    flat = Transformer(dataclasses.replace(context.model.config, scan_layers=False))
    context = dataclasses.replace(context, model=flat)
    how, sizes, objective = arm.how, sizes_of(arm, config), OBJECTIVES[arm.how.objective]
    given = Given(tasks, base, base, jnp.float32(1), jnp.int32(1), jnp.int32(0))
    run = build_run(arm, context, player, config, mesh)
    state = jax.eval_shape(run.initial, given, base)
    rows, _ = jax.eval_shape(run.draw, state, given, jax.random.key(0))
    others = Others(base, base, base)

    def prepare(params, rows):
        return objective.prepare(context, params, others, rows)

    def gradient(params, rows):
        return jax.grad(lambda params: objective.loss(context, params, others, rows)[0])(params)

    params = state.train.params
    total = _count(prepare, params, rows)
    rows = dataclasses.replace(rows, added=jax.eval_shape(prepare, params, rows))
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] // sizes.minibatches, *x.shape[1:]), x.dtype),
        rows,
    )
    total += how.epochs * sizes.minibatches * _count(gradient, params, batch)
    if how.source in PLAYED:
        T = rows.tokens.shape[1]
        answers = arm.setting.turns * config.answer_tokens

        def read(params, tokens, cache):
            count = jnp.full(len(tokens), tokens.shape[1], jnp.int32)
            return appender(flat, params)(cache, tokens, count)[0]

        def reading(rows: int, tokens: int) -> float:
            cache = init_cache(flat.config, rows, T, flat.config.compute_dtype)
            return _count(read, base, jnp.zeros((rows, tokens), jnp.int32), cache)

        total += reading(sizes.prompts, T - answers) + answers * reading(sizes.rows, 1)
    return total


def _count(fn: Any, *arguments: Any) -> float:
    analysis = compile_once(fn).lower(*arguments).compile().cost_analysis()
    return float((analysis or {}).get("flops", 0.0))
