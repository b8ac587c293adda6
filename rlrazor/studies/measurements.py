"""What is measured of a policy: what it can do, how far it is from its base, what it forgot.

Each maker returns a `Measurement`. `at_once` prompts are in memory at a time, so that a large model
is measured on as many as a small one. Keys are folded from a seed's, so that every run of the seed
is asked the same questions.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.evaluation.pass_at import pass_at
from rlrazor.lines import OUTCOMES, pack_outcomes
from rlrazor.methods.sources import rows_of
from rlrazor.ops.entropy import entropy
from rlrazor.ops.kl import kl
from rlrazor.policies.policy import Policy
from rlrazor.runtime.distributed import to_host
from rlrazor.runtime.mesh import compile_once, global_rows, replicate
from rlrazor.sampling.decode import Sampling
from rlrazor.sampling.episodes import Rollout
from rlrazor.studies.device import sampled
from rlrazor.studies.programs import by_rows
from rlrazor.studies.study import Columns
from rlrazor.studies.world import Measurement
from rlrazor.tasks.protocol import Task, Verdict
from rlrazor.types import Params, Rows

AT_ONCE, ROWS_AT_ONCE = 256, 8  # prompts in memory at a time, and rows of a device
GREEDY, AS_IT_IS = Sampling(0.0), Sampling(1.0)
# Parts of a seed's measuring key: what draws the examples of each kind of measurement.
BASE_SAMPLES, PRIOR_SAMPLES, EXAMPLES, QUESTIONS, OWN_SAMPLES, REPEATED = range(6)

OfRollout = Callable[[Rollout, Any], Mapping[str, jax.Array]]  # (rollout, judges) -> [B] by name


def in_batches(fn: Callable[[jax.Array], Any], keys: jax.Array, at_once: int) -> Any:
    """fn(keys) -> tree [n, ...] for some keys at a time, on the host and joined there."""
    count = len(keys)
    size = min(count, at_once)
    found = []
    for start in range(0, count, size):
        place = np.minimum(np.arange(start, start + size), count - 1)  # one shape for all
        found.append(to_host(fn(keys[place])))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)


def _means(found: Mapping[str, np.ndarray], prefix: str) -> Columns:
    return {f"{prefix}/{name}": float(np.mean(x, dtype=np.float64)) for name, x in found.items()}


def of_each(fn: Callable[[Any, jax.Array], Any], policy: Policy) -> Callable[[Any, jax.Array], Any]:
    """fn(task, keys[n]) over tasks [S, ...] and keys [S, n], inside a compiled function.

    Side by side on an accelerator, which wants wide work; on a CPU, and where a model is cut over
    devices, one after the other.
    """
    if policy.replicated and policy.mesh.devices.flat[0].platform != "cpu":
        return jax.vmap(fn)
    return lambda tasks, keys: jax.lax.map(lambda one: fn(*one), (tasks, keys))


def of_first_answers(rollout: Rollout, judges: Any) -> Mapping[str, jax.Array]:
    """Whether the first answer was right, and whether it was truncated."""
    return {"accuracy": rollout.verdict.correct[:, 0], "answer_truncated": rollout.truncated[:, 0]}


def success(
    policy: Policy,
    prefix: str,
    task: Task,
    *,
    examples: int,
    at_once: int = AT_ONCE,
    part: int = EXAMPLES,
    columns: OfRollout = of_first_answers,
    judges: Any = None,  # a tree, such as tasks that judge the same answers
) -> Measurement:
    """Greedy first answers: `accuracy`, and whatever `columns` finds in the rollout."""
    task, judges = (replicate(tree, policy.mesh) for tree in (task, judges))

    @compile_once
    def ask(params, task, judges, keys):
        return columns(sampled(params, policy, task, keys, GREEDY, turns=1), judges)

    def of(params: Params, base: Params, kept: Any, key: jax.Array) -> Columns:
        keys = jax.random.split(jax.random.fold_in(key, part), examples)
        found = in_batches(lambda some: ask(params, task, judges, some), keys, at_once)
        return {
            **_means(found, prefix),
            f"{prefix}/count": examples,
            f"{OUTCOMES}/{prefix}": pack_outcomes(found["accuracy"]),
        }

    return Measurement(prefix, of, beside=("accuracy",))


def suites(
    policy: Policy,
    names: Sequence[str],
    tasks: Task,  # leaves [S, ...], one of each name
    *,
    examples: int,  # of each
    at_once: int = AT_ONCE,
    prefix: str = "prior",
) -> Measurement:
    """Greedy accuracy on each of several tasks, and their mean: what is not to be forgotten."""
    tasks, count = replicate(tasks, policy.mesh), len(names)

    @compile_once
    def ask(params, tasks, keys):  # key[n, S]
        def right(task, keys):
            return sampled(params, policy, task, keys, GREEDY, turns=1).verdict.correct[:, 0]

        return of_each(right, policy)(tasks, keys.T).T

    def of(params: Params, base: Params, kept: Any, key: jax.Array) -> Columns:
        of_suite = [jax.random.fold_in(jax.random.fold_in(key, QUESTIONS), i) for i in range(count)]
        keys = jnp.stack([jax.random.split(mine, examples) for mine in of_suite], axis=1)
        some = functools.partial(ask, params, tasks)
        right = in_batches(some, keys, max(1, at_once // count)).T
        columns: dict[str, Any] = {}
        for name, mine in zip(names, right, strict=True):
            columns[f"{prefix}/{name}/accuracy"] = float(np.mean(mine, dtype=np.float64))
            columns[f"{OUTCOMES}/{prefix}/{name}"] = pack_outcomes(mine)
        columns[f"{prefix}/accuracy"] = float(np.mean(right, dtype=np.float64))
        return {**columns, f"{prefix}/count": count * examples}

    return Measurement(prefix, of, beside=("accuracy", *(f"{name}/accuracy" for name in names)))


def within_turns(
    policy: Policy,
    prefix: str,
    task: Task,
    *,
    examples: int,
    at_once: int = AT_ONCE,
    turns: Sequence[int],
    **when: Any,
) -> Measurement:
    """Success within so many turns of an episode played greedily, with the verifier's words."""
    task = replicate(task, policy.mesh)

    @compile_once
    def ask(params, task, keys):
        played = sampled(params, policy, task, keys, GREEDY, turns=max(turns))
        right = played.verdict.correct
        return {f"success_within_{k}": jnp.any(right[:, :k], axis=1) for k in turns}

    def of(params: Params, base: Params, kept: Any, key: jax.Array) -> Columns:
        keys = jax.random.split(jax.random.fold_in(key, EXAMPLES), examples)
        found = in_batches(lambda some: ask(params, task, some), keys, at_once)
        return _means(found, prefix)

    names = tuple(f"success_within_{k}" for k in turns)
    return Measurement(prefix, of, beside=names, **when)


def passes(
    policy: Policy,
    prefix: str,
    task: Task,
    *,
    examples: int,
    samples: int,
    at_once: int = AT_ONCE,
    ks: Sequence[int],
    **when: Any,
) -> Measurement:
    """pass@k of several samples of each example, by the unbiased estimate."""
    task = replicate(task, policy.mesh)

    @compile_once
    def ask(params, task, keys):
        played = sampled(params, policy, task, keys, AS_IT_IS, turns=1, samples=samples)
        return jnp.sum(played.verdict.correct.reshape(len(keys), samples), axis=1)

    def of(params: Params, base: Params, kept: Any, key: jax.Array) -> Columns:
        keys = jax.random.split(jax.random.fold_in(key, REPEATED), examples)
        right = in_batches(lambda some: ask(params, task, some), keys, max(1, at_once // samples))
        return {f"{prefix}/pass_at_{k}": pass_at(right, samples, k) for k in ks}

    return Measurement(prefix, of, beside=tuple(f"pass_at_{k}" for k in ks), **when)


def as_it_is(policy: Any) -> Any:
    """The policy scored at temperature 1 whatever it trains at: what KL is measured of."""
    return dataclasses.replace(policy, sampling=AS_IT_IS)


def distances(policy: Any, *, rows_at_once: int) -> Callable[[Params, Params, Rows], Columns]:
    """`(policy, base, rows) -> [B]` by name: exact KL both ways, entropy and NLL, nats a row."""
    plain = as_it_is(policy)

    def compare(log_policy, log_base, tokens):
        chosen = jnp.take_along_axis(log_policy, tokens[..., None], axis=-1)[..., 0]
        return {
            "kl_base_policy_nats": kl(log_base, log_policy),
            "kl_policy_base_nats": kl(log_policy, log_base),
            "entropy_nats": entropy(log_policy),
            "nll_nats": -chosen,
        }

    def of_rows(pair, rows: Rows):
        readings = [plain.read(params, rows) for params in pair]
        found = plain.over_vocabulary(compare, *readings)
        sums = {n: jnp.sum(jnp.where(rows.mask, x, 0.0), axis=1) for n, x in found.items()}
        return {**sums, "tokens": jnp.sum(rows.mask, axis=1)}

    @compile_once
    def measure(params: Params, base: Params, rows: Rows):
        return by_rows(of_rows, policy, (params, base), rows, rows_at_once)

    return measure


def nats(found: Mapping[str, np.ndarray], name: str, prefix: str) -> Columns:
    """A sum over tokens as the mean of a sequence and of a token."""
    total, rows = np.sum(found[name], dtype=np.float64), len(found[name])
    tokens = max(int(np.sum(found["tokens"])), 1)
    return {f"{prefix}/{name}": total / rows, f"{prefix}/{name}_per_token": total / tokens}


def divergence(
    policy: Policy,
    prefix: str,
    tasks: Task,  # leaves [S, ...]
    *,
    examples: int,  # over all tasks
    at_once: int = AT_ONCE,
    rows_at_once: int = ROWS_AT_ONCE,
    part: int = BASE_SAMPLES,
    own: bool = True,  # KL(policy || base) too, on samples of the policy
) -> Measurement:
    """Exact KL(base || policy) on samples of the base, and of the policy, to the same examples."""
    tasks, count = replicate(tasks, policy.mesh), len(jax.tree.leaves(tasks)[0])
    measure = distances(policy, rows_at_once=rows_at_once)

    @compile_once
    def answer(params, tasks, keys):  # key[n, S] -> leaves [n, S, ...]
        def rows(task, keys):
            return rows_of(sampled(params, policy, task, keys, AS_IT_IS, turns=1))

        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), of_each(rows, policy)(tasks, keys.T))

    def answers(params: Params, key: jax.Array) -> Rows:
        of_task = [jax.random.fold_in(key, i) if count > 1 else key for i in range(count)]
        each = [jax.random.split(mine, examples // count) for mine in of_task]
        some = functools.partial(answer, params, tasks)
        found = in_batches(some, jnp.stack(each, axis=1), max(1, at_once // count))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    def compared(params: Params, base: Params, rows: Rows) -> dict[str, np.ndarray]:
        def some(start: int) -> Rows:
            return jax.tree.map(lambda leaf: leaf[start : start + at_once], rows)

        found = [
            to_host(measure(params, base, global_rows(some(start), policy.mesh)))
            for start in range(0, len(rows.count), at_once)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def keep(base: Params, key: jax.Array) -> Rows:
        return answers(base, jax.random.fold_in(key, part))

    def of(params: Params, base: Params, kept: Rows, key: jax.Array) -> Columns:
        columns = dict(nats(compared(params, base, kept), "kl_base_policy_nats", prefix))
        if own:
            mine = answers(params, jax.random.fold_in(key, OWN_SAMPLES))
            columns |= nats(compared(params, base, mine), "kl_policy_base_nats", prefix)
        return columns

    return Measurement(prefix, of, keep=keep)


def judged_alike(judge: Task, rollout: Rollout, text: jax.Array) -> Verdict:
    """What another task of the same states says to the first answers, u8[B, n] bytes."""
    return jax.vmap(lambda state, answer: judge.step(state, answer)[1])(rollout.dealt, text)
