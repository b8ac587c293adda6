"""A whole study of one's own in sixty lines: task, judge, expert, model, objective, verdicts."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

import rlrazor as rr

V, END = 12, 11  # tokens 0 to 3 ask for a number, 4 to 10 spell "0" to "6", 11 ends an answer


class State(NamedTuple):
    asked: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class Successor(NamedTuple):  # a task: say the number so far behind the one that is asked for
    far: jax.Array

    def reset(self, key):
        return State(jax.random.randint(key, (), 0, 4), jnp.bool_(False), jnp.bool_(False))

    def opening(self, state):
        return rr.Observation(state.asked[None], jnp.int32(1))

    reply = opening

    def step(self, state, answer):  # the judge: bytes in, a graded verdict out
        error = jnp.abs(answer[0].astype(int) - 48 - state.asked - self.far)
        return state._replace(terminated=jnp.bool_(True)), rr.Verdict(-1.0 * error, error == 0)

    def demonstrate(self, key, state):
        return (4 + state.asked + self.far)[None], jnp.int32(1)


def weighted(policy, params, reads, rows):  # an objective: likelihood, times what an answer earned
    said = jnp.where(rows.mask, policy.logprobs(policy.read(params, rows)), 0.0).sum(axis=1)
    return -jnp.mean(jnp.exp(rows.rewards) * said), {}


def test_a_study_of_ones_own(tmp_path, quick_compiles):
    spelling = jnp.arange(44, 44 + V, dtype=jnp.uint8)[:, None], jnp.ones(V, int)
    how = {"answer_tokens": 2, "answer_bytes": 2, "stops": rr.make_stops([[END]])}
    policy = rr.FunctionPolicy(lambda table, tokens: table[tokens], spelling=spelling, **how)
    base = rr.Base("table", policy, 0.3 * jax.random.normal(jax.random.key(0), (V, V)))
    tests = {n: Successor(jnp.int32(i)) for i, n in enumerate(("new", "shift/far", "prior"), 1)}
    success = functools.partial(rr.measurements.success, policy, examples=32)
    measured = [success(name, task) for name, task in tests.items()]
    train = rr.OnDevice(rr.versions(tests["new"]), expert=rr.itself, end=END)
    measured.append(rr.measurements.divergence(policy, "new", train.tasks, examples=32))
    world = rr.World(train, measured)
    own = rr.Method("own", "Weighted likelihood", "reward", rr.methods.grpo.source, weighted)
    arms, rates = [rr.methods.sft, rr.methods.grpo, own], {n: [0.1] for n in ("sft", "grpo", "own")}
    study = rr.LanguageStudy(base, world, arms, learning_rates=rates, seeds=(0, 1), steps=9)
    assert rr.load_results(rr.drive(study, tmp_path) / "results.jsonl")["gain"].max() > 0.3
    assert "The answer" in rr.report(tmp_path, tmp_path / "report").read_text()
    assert len((tmp_path / __file__).read_text().splitlines()) <= 60
