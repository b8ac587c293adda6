"""What a policy can do, how far it is from the base, what it forgot: compiled, per checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from experiments.general_points.language import Player
from experiments.rule_shift.objectives import Context
from experiments.rule_shift.tasks import Tests
from rlrazor.ops.kl import kl
from rlrazor.ops.masked import masked_mean
from rlrazor.ops.spelling import spell
from rlrazor.runtime.mesh import spread
from rlrazor.sampling.decode import Sampling
from rlrazor.sampling.episodes import Rollout
from rlrazor.tasks.general_points.released import CORRECT
from rlrazor.tasks.general_points.task import GeneralPoints
from rlrazor.tasks.procedural.pieces import TASKS as SUITES
from rlrazor.types import Metrics, Params

PRIOR_ANSWER = 12  # tokens; the longest right answer has eleven


@struct.dataclass
class Samples:
    """Answers of the base, kept to measure every policy on."""

    tokens: jax.Array  # i32[N, T]
    mask: jax.Array  # bool[N, T] what the base said


@dataclasses.dataclass(frozen=True)
class Measure:
    """Pure functions of one policy; `key` deals the hands, the same for every run of a seed."""

    base_samples: Callable[..., tuple[Samples, Samples]]  # (base, tests, key) -> new task, prior
    checkpoint: Callable[..., Metrics]  # (policy, base, tests, samples, key)
    turns: Callable[..., Metrics]  # (policy, tests, key)
    repeated: Callable[..., Metrics]  # (policy, tests, key) -> correct answers of each hand, i32[H]


def build_measure(context: Context, player: Player, config: Any, mesh: Mesh) -> Measure:
    sizes = config.measure
    short = dataclasses.replace(player, answer_size=PRIOR_ANSWER, answer_bytes=2 * PRIOR_ANSWER)

    def keys_for(key: jax.Array, part: int, count: int) -> jax.Array:
        return spread(jax.random.split(jax.random.fold_in(key, part), count), mesh)

    def of_suites(fn: Callable[..., Any], tests: Tests, key: jax.Array, count: int) -> Any:
        """fn(task, keys) for one suite after another: leaves [S, ...]."""
        keys = jnp.stack([jax.random.fold_in(key, suite) for suite in range(len(SUITES))])
        return jax.lax.map(
            lambda pair: fn(pair[0], spread(jax.random.split(pair[1], count), mesh)),
            (tests.prior, keys),
        )

    def base_samples(base: Params, tests: Tests, key: jax.Array) -> tuple[Samples, Samples]:
        keys = keys_for(key, 0, sizes.kl_prompts)
        new = _said(player.play(base, tests.new, keys, Sampling(1.0), turns=1))

        def suite(task, keys):
            return _said(short.play(base, task, keys, Sampling(1.0), turns=1))

        prior = of_suites(suite, tests, jax.random.fold_in(key, 1), sizes.kl_prompts // len(SUITES))
        return new, jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), prior)

    def divergence(first: Params, second: Params, samples: Samples) -> tuple[jax.Array, jax.Array]:
        """KL(first || second) in nats a sequence and a token, exact over the vocabulary."""
        log_p, log_q = (context.distributions(p, samples.tokens) for p in (first, second))
        mask = samples.mask[:, 1:]
        at = kl(log_p, log_q)
        return jnp.mean(jnp.sum(jnp.where(mask, at, 0.0), axis=1)), masked_mean(at, mask)

    def checkpoint(policy, base, tests, samples, key) -> Metrics:
        metrics = {}
        keys = keys_for(key, 2, sizes.hands)
        judges = {
            "new": (tests.new, {"released": tests.new_released}),
            "ood": (tests.ood, {"released": tests.ood_released, "fake": tests.fake}),
        }
        for name, (task, others) in judges.items():
            found = _greedy(player, policy, task, keys, others)
            metrics |= {f"{name}/{what}": value for what, value in found.items()}

        def suite(task, keys):
            played = short.play(policy, task, keys, Sampling(0.0), turns=1)
            return jnp.mean(played.verdict.correct, dtype=jnp.float32)

        right = of_suites(suite, tests, jax.random.fold_in(key, 3), sizes.questions)
        metrics |= {f"prior/{name}/accuracy": right[i] for i, name in enumerate(SUITES)}
        metrics["prior/accuracy"] = jnp.mean(right)

        mine = _said(
            player.play(
                policy, tests.new, keys_for(key, 4, sizes.kl_prompts), Sampling(1.0), turns=1
            )
        )
        of_base, of_base_prior = samples
        for name, pair, where in (
            ("new/kl_base_policy", (base, policy), of_base),
            ("new/kl_policy_base", (policy, base), mine),
            ("prior/kl_base_policy", (base, policy), of_base_prior),
        ):
            metrics[f"{name}_nats"], metrics[f"{name}_nats_per_token"] = divergence(*pair, where)
        return metrics

    def turns(policy, tests, key) -> Metrics:
        metrics = {}
        for name, task in (("new", tests.new), ("ood", tests.ood)):
            keys = keys_for(key, 2, sizes.turn_hands)
            played = player.play(policy, task, keys, Sampling(0.0), turns=max(sizes.turns))
            for k in sizes.turns:
                within = jnp.any(played.verdict.correct[:, :k], axis=1)
                metrics[f"{name}/success_within_{k}"] = jnp.mean(within, dtype=jnp.float32)
        return metrics

    def repeated(policy, tests, key) -> Metrics:
        found = {}
        for name, task in (("new", tests.new), ("ood", tests.ood)):
            keys = keys_for(key, 5, sizes.pass_hands)
            played = player.play(
                policy, task, keys, Sampling(1.0), turns=1, samples=sizes.pass_samples
            )
            correct = played.verdict.correct.reshape(sizes.pass_hands, sizes.pass_samples)
            found[name] = jnp.sum(correct, axis=1)
        return found

    return Measure(base_samples, checkpoint, turns, repeated)


def _said(played: Rollout) -> Samples:
    return Samples(played.tokens, played.chosen)


def _greedy(
    player: Player,
    policy: Params,
    task: GeneralPoints,
    keys: jax.Array,
    judges: dict[str, GeneralPoints],  # who else judges the same answers
) -> Metrics:
    """Success at the first answer, and how well cards and their worth were read."""
    played = player.play(policy, task, keys, Sampling(0.0), turns=1)
    failures = {name: flag[:, 0] for name, flag in played.verdict.failures.items()}
    formed = ~(failures["no_object"] | failures["malformed_field"])
    found = {
        "accuracy": played.verdict.correct[:, 0],
        "cards_read": formed & ~failures["cards_misread"],
        "numbers_translated": formed & ~failures["numbers_mistranslated"],
        "answer_cut": played.cut[:, 0],
    }
    places = played.answer_start[:, :1] + jnp.arange(player.answer_size)[None]
    places = jnp.minimum(places, played.tokens.shape[1] - 1)
    answers = jnp.take_along_axis(played.tokens, places, axis=1)
    lengths = jnp.sum(played.chosen, axis=1)

    def answer(key, tokens, length, judge):
        # The hand that was played, whoever judges it.
        state = task.reset(jax.random.fold_in(key, 0))
        text, _ = spell(tokens, *player.spelling, player.answer_bytes, length)
        return judge.step(state, text)[1]

    for name, judge in judges.items():
        verdict = jax.vmap(answer, in_axes=(0, 0, 0, None))(keys, answers, lengths, judge)
        right = verdict.reward == CORRECT if name == "released" else verdict.correct
        found[f"{name}_accuracy"] = right
    return {name: jnp.mean(value, dtype=jnp.float32) for name, value in found.items()}
