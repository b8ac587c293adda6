"""Training on questions of the host: sampled on the devices, judged by anybody's function."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from rlrazor.methods import sources
from rlrazor.ops.sequences import append, between
from rlrazor.policies.policy import Policy
from rlrazor.runtime.distributed import is_writer, to_host
from rlrazor.runtime.mesh import compile_once, global_rows, on_mesh, rows_at
from rlrazor.sampling.decode import Sampling
from rlrazor.sampling.prompts import PromptTask
from rlrazor.studies.programs import (
    Given,
    RunState,
    Setup,
    draw_key,
    learn,
    player,
    state_shardings,
)
from rlrazor.studies.study import Run
from rlrazor.tasks.protocol import Verdict
from rlrazor.types import Metrics, Params, Rows

NO_ANCHOR = "is held to the base on prompts of other tasks, and a file has none for it"
# (prompts, answers, truths) -> a verdict of each answer; rewards may be graded
Judge = Callable[[Sequence[str], Sequence[str], Sequence[Any]], Sequence[Verdict]]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A conversation as tokens."""

    tokens: np.ndarray  # i32[n]
    mask: np.ndarray  # bool[n] tokens that the assistant says


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked, and, where the data have it, what would be right and what wrong."""

    prompt: np.ndarray  # i32[n]
    text: str  # of the prompt, for the judge
    truth: Any
    conversation: Encoded | None = None  # with the right answer
    rejected: Encoded | None = None  # with a wrong one
    demonstrated: np.ndarray | None = None  # i32[m] prompt behind an in-context demonstration


@dataclasses.dataclass(frozen=True, eq=False)
class OnHost:
    """Questions, who judges the answers, and the few lengths to which rows are padded."""

    questions: Sequence[Question]
    judge: Judge
    decode: Callable[[Sequence[int]], str]
    prompt_buckets: Sequence[int]
    row_buckets: Sequence[int]

    def refusal(self, setup: Setup) -> str | None:
        """Why the method cannot be had here; None where it can."""
        method, first = setup.method, self.questions[0]
        if setup.side_by_side > 1:
            return "learns from questions of the host, and is trained by itself: side_by_side=1"
        if setup.turns > 1:
            return f"is asked for {setup.turns} turns, and a question of a file is answered once"
        if method.imitates and first.conversation is None:
            return "learns from demonstrations, and the data have no answers to imitate"
        if method.paired and any(q.rejected is None for q in self.questions):
            return 'learns from pairs, and a line of the data has no wrong answer ("rejected")'
        if method.anchored:
            return NO_ANCHOR
        if method.demonstrated and first.demonstrated is None:
            return "shows demonstrations, and the data have no answers to show"
        return None

    def row_tokens(self, setup: Setup) -> int:
        """Of the largest bucket: what a row may cost."""
        if setup.method.imitates:
            return max(self.row_buckets)
        return max(self.prompt_buckets) + setup.policy.answer_tokens

    def advancing(
        self, setup: Setup, whole: Any
    ) -> Callable[[Run, RunState, Given, int], tuple[RunState, Metrics]]:
        """Sample, judge and learn, or only learn; each compiled for every bucket that is met."""
        mesh = setup.policy.mesh
        learning, sampling = learner(setup, whole), sampler(setup)

        def advance(run: Run, state: RunState, given: Given, done: int):
            some = self.chosen(setup, run.seed, done)
            if setup.method.imitates:
                return learning(state, given, self.imitated(setup, some))
            prompts = prompt_rows([q.prompt for q in some], self.prompt_buckets, mesh)
            rows = sampling(state, given, prompts)
            if setup.method.demonstrated:
                shown = [q.demonstrated for q in some]
                rows = behind(rows, prompt_rows(shown, self.demonstrated_buckets, mesh))  # type: ignore
            rows, of_rows = self.judged(rows, some, setup.sizes.samples, mesh)
            state, metrics = learning(state, given, rows)
            return state, {**of_rows, **metrics}

        return advance

    @property
    def demonstrated_buckets(self) -> list[int]:
        """Of prompts behind a demonstration: those of the data, and room for the longest."""
        sizes = behind_buckets(self.prompt_buckets, self.row_buckets)
        shown = [len(q.demonstrated) for q in self.questions if q.demonstrated is not None]
        return [*sizes, max([*shown, *sizes])]

    def chosen(self, setup: Setup, seed: int, number: int) -> list[Question]:
        """Questions of batch `number`; a function of seed and number, whoever resumes."""
        count = setup.fixed or len(self.questions)
        places = batch(count, setup.sizes.prompts, seed=seed, number=number)
        return [self.questions[i % len(self.questions)] for i in places]

    def imitated(self, setup: Setup, some: Sequence[Question]) -> Rows:
        """Conversations to learn from, with their wrong twins where the method wants pairs."""
        mesh = setup.policy.mesh
        rows = conversation_rows([q.conversation for q in some], self.row_buckets, mesh)
        if setup.method.paired:
            wrong = conversation_rows([q.rejected for q in some], self.row_buckets, mesh)
            rows = dataclasses.replace(rows, rejected=wrong)
        return rows

    def judged(
        self, rows: Rows, some: Sequence[Question], samples: int, mesh: Any
    ) -> tuple[Rows, dict[str, Any]]:
        """Rows with what the judge says of them; judged by one process for all."""
        asked = [question for question in some for _ in range(samples)]
        found = judge_rows(self.judge, rows, asked, self.decode)
        rewards, correct = (global_rows(found[name], mesh) for name in ("reward", "correct"))
        turns = dataclasses.replace(rows.turns, rewards=rewards[:, None])  # type: ignore[type-var]
        rows = dataclasses.replace(rows, rewards=rewards, correct=correct, turns=turns)
        groups = found["reward"].reshape(-1, samples)
        metrics = {
            "reward": np.mean(found["reward"]),
            "solved": np.mean(found["correct"]),
            "groups_alike": np.mean(np.ptp(groups, axis=1) == 0),
            "answer_truncated": np.mean(found["truncated"]),
            "answer_tokens": np.mean(found["tokens"]),
            "entropy_nats": found["entropy_nats"],
        }
        return rows, {name: np.asarray(value, np.float32) for name, value in metrics.items()}


def learner(setup: Setup, whole: Any) -> Any:
    """`learned`, compiled for each bucket; the state, of which `whole` has shapes, is given up."""
    at = state_shardings(setup, whole), on_mesh(setup.policy.mesh)
    return compile_once(functools.partial(learned, setup), donate=(0,), out=at)


def sampler(setup: Setup) -> Any:
    """`sample`, compiled for each bucket."""
    at = rows_at(setup.sizes.rows, setup.policy.mesh)
    return compile_once(functools.partial(sample, setup), out=at)


def learned(setup: Setup, state: RunState, given: Given, rows: Rows) -> tuple[RunState, Metrics]:
    """The updates of an iteration, in the order that its key gives."""
    _, order = jax.random.split(draw_key(state, given))
    return learn(setup, state, given, rows, order)


def sample(setup: Setup, state: RunState, given: Given, prompts: Rows) -> Rows:
    """G answers to every prompt, by whomever the method learns from."""
    drawing, _ = jax.random.split(draw_key(state, given))
    params, policy = player(setup, state, given), setup.policy
    return answers(policy, params, prompts, drawing, policy.sampling, setup.sizes.samples)


def answers(
    policy: Policy, params: Params, prompts: Rows, key: jax.Array, sampling: Sampling, samples: int
) -> Rows:
    """Rows of sampled answers; nobody has judged them yet."""
    task = PromptTask()
    dealt = task.deal(prompts.tokens, prompts.count)
    keys = jax.random.split(key, len(prompts.count))
    played = policy.play(params, task, dealt, keys, sampling, turns=1, samples=samples)
    return sources.rows_of(played)


def batch(count: int, size: int, *, seed: int, number: int) -> np.ndarray:  # i64[size]
    """Examples of batch `number`, in an order new for every epoch.

    Examples at the end of an epoch that fill no batch wait for the next order; fewer examples than
    a batch are repeated.
    """
    in_epoch = max(count // size, 1)
    epoch, place = divmod(number, in_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return np.resize(order, max(count, size))[place * size : (place + 1) * size]


def bucket(longest: int, buckets: Sequence[int]) -> int:
    """The smallest size that holds the longest row: few sizes, few programs to compile."""
    return next(size for size in sorted(buckets) if size >= longest)


def padded(rows: Sequence[Any], size: int, dtype: Any) -> np.ndarray:  # [len(rows), size]
    table = np.zeros((len(rows), size), dtype)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def prompt_rows(prompts: Sequence[np.ndarray], buckets: Sequence[int], mesh: Any) -> Rows:
    """Prompts on the mesh, padded to a bucket."""
    size = bucket(max(map(len, prompts)), buckets)
    tokens = padded(prompts, size, np.int32)
    count = np.array([len(prompt) for prompt in prompts], np.int32)
    arrays = global_rows((tokens, count, np.zeros(tokens.shape, bool)), mesh)
    return Rows(*arrays, prompt_count=arrays[1], prompt_size=size)


def conversation_rows(
    conversations: Sequence[Encoded | None], buckets: Sequence[int], mesh: Any
) -> Rows:
    """Conversations on the mesh, padded to a bucket."""
    given = [one for one in conversations if one is not None]
    size = bucket(max(len(one.tokens) for one in given), buckets)
    tokens = padded([one.tokens for one in given], size, np.int32)
    mask = padded([one.mask for one in given], size, bool)
    count = np.array([len(one.tokens) for one in given], np.int32)
    return Rows(*global_rows((tokens, count, mask), mesh))


def behind_buckets(prompt_buckets: Sequence[int], row_buckets: Sequence[int]) -> list[int]:
    """Of a prompt that a whole conversation comes before."""
    return [size + max(prompt_buckets) for size in sorted(row_buckets)]


@compile_once
def behind(rows: Rows, shown: Rows) -> Rows:
    """The same answers behind prompts that show how it is done."""
    S = shown.tokens.shape[1]
    A = rows.tokens.shape[1] - rows.prompt_size

    def one(prompt, prompt_count, tokens, asked, count):
        place = jnp.minimum(asked + jnp.arange(A), len(tokens) - 1)
        row = append((jnp.zeros(S + A, jnp.int32), jnp.int32(0)), prompt, prompt_count)
        whole, end = append(row, tokens[place], count - asked)
        return whole, end, between(prompt_count, end, S + A)

    G = rows.samples
    tokens, count, mask = jax.vmap(one)(
        jnp.repeat(shown.tokens, G, axis=0),
        jnp.repeat(shown.count, G, axis=0),
        rows.tokens,
        rows.prompt_count,
        rows.count,
    )
    prompt_count = jnp.repeat(shown.count, G, axis=0)
    demonstrated = Rows(tokens, count, mask, prompt_count=prompt_count, prompt_size=S, samples=G)
    return dataclasses.replace(rows, demonstrated=demonstrated)


def texts(rows: Any, decode: Callable[[Sequence[int]], str]) -> list[str]:
    """What the policy said in each row (arrays of the host)."""
    return [decode(t[m].tolist()) for t, m in zip(rows.tokens, rows.mask, strict=True)]


def judge_rows(
    judge: Judge, rows: Rows, asked: Sequence[Question], decode: Callable[[Sequence[int]], str]
) -> dict[str, np.ndarray]:
    """Of each row: `reward`, `correct`, `truncated`, `tokens`, and every failure that was named.

    An answer that was truncated by the limit has not said its last: it is not right, and earns
    nothing. One process judges, and tells the others.
    """
    kept = to_host(dataclasses.replace(rows, turns=None, rejected=None, demonstrated=None))
    said = texts(kept, decode)
    verdicts: Sequence[Verdict] = [Verdict(0.0, False)] * len(said)  # type: ignore[arg-type]
    if is_writer():
        verdicts = judge([q.text for q in asked], said, [q.truth for q in asked])
        if len(verdicts) != len(said):
            raise ValueError(
                f"the judge gave {len(verdicts)} verdicts on {len(said)} answers; it must give one "
                "for each"
            )
    finished = np.asarray(kept.stopped)
    reward = np.array([float(v.reward) for v in verdicts], np.float32)
    if not np.isfinite(reward).all():
        raise ValueError("the judge gave a reward that is not finite; give a number")
    columns = {
        "reward": np.where(finished, reward, np.minimum(reward, 0)),
        "correct": np.array([bool(v.correct) for v in verdicts]) & finished,
        "no_answer": np.array([bool(v.failures.get("no_answer", False)) for v in verdicts]),
        "timed_out": np.array([bool(v.failures.get("timed_out", False)) for v in verdicts]),
    }
    if jax.process_count() > 1:
        columns = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(columns))
    tokens = np.sum(kept.mask, axis=1)
    entropy = -np.sum(kept.behaviour_logprobs) / max(int(tokens.sum()), 1)
    return {**columns, "truncated": ~finished, "tokens": tokens, "entropy_nats": entropy}


def named_failures(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Shares of answers that failed in a way that has a name."""
    return {name: float(np.mean(found[name])) for name in ("no_answer", "timed_out", "truncated")}
