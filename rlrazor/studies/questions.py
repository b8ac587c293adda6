"""Measurements on questions of the host, as `measurements` has them for tasks on the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rlrazor.lines import OUTCOMES, pack_outcomes
from rlrazor.policies.policy import Policy
from rlrazor.runtime.distributed import to_host
from rlrazor.runtime.mesh import compile_once, global_rows
from rlrazor.sampling.decode import Sampling
from rlrazor.studies.host import OnHost, answers, judge_rows, named_failures, prompt_rows
from rlrazor.studies.measurements import AS_IT_IS, GREEDY, distances, nats
from rlrazor.studies.study import Columns
from rlrazor.studies.world import Measurement
from rlrazor.types import Params, Rows


def answerer(policy: Policy, sampling: Sampling) -> Any:
    """`(params, prompts, key) -> rows`, an answer to each; compiled for each bucket."""

    @compile_once
    def answer(params: Params, prompts: Rows, key: jax.Array) -> Rows:
        return answers(policy, params, prompts, key, sampling, 1)

    return answer


class Asking:
    """Answers to questions, a batch of them at a time, whatever the number of devices."""

    def __init__(self, policy: Policy, *, at_once: int):
        self.policy, self.at_once = policy, at_once
        self._answer = {how: answerer(policy, how) for how in (GREEDY, AS_IT_IS)}

    def __call__(
        self, params: Params, on: OnHost, key: jax.Array, sampling: Sampling
    ) -> list[tuple[Rows, range]]:
        """Rows of the host, and the places of their questions."""
        found = []
        questions, size = on.questions, min(self.at_once, len(on.questions))
        for start in range(0, len(questions), size):
            places = [min(i, len(questions) - 1) for i in range(start, start + size)]
            prompts = [questions[i].prompt for i in places]
            rows = prompt_rows(prompts, on.prompt_buckets, self.policy.mesh)
            mine = jax.random.fold_in(key, start)
            said = to_host(self._answer[sampling](params, rows, mine))
            real = range(start, min(start + size, len(questions)))
            found.append((jax.tree.map(lambda x: x[: len(real)], said), real))  # noqa: B023
        return found


def judged(on: OnHost, said: Sequence[tuple[Rows, range]]) -> dict[str, np.ndarray]:
    """What the judge says of every answer."""
    found = [
        judge_rows(on.judge, rows, [on.questions[i] for i in places], on.decode)
        for rows, places in said
    ]
    names = [name for name in found[0] if name != "entropy_nats"]
    return {name: np.concatenate([one[name] for one in found]) for name in names}


def success(asking: Asking, prefix: str, on: OnHost, *, part: int) -> Measurement:
    """Greedy answers: accuracy, mean reward, tokens, and shares of each named failure."""

    def of(params: Params, base: Params, kept: Any, key: jax.Array) -> Columns:
        said = asking(params, on, jax.random.fold_in(key, part), GREEDY)
        return _of_judged(judged(on, said), prefix)

    return Measurement(prefix, of, beside=("accuracy", "reward"))


def _of_judged(found: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    columns = {
        "accuracy": float(np.mean(found["correct"], dtype=np.float64)),
        "reward": float(np.mean(found["reward"], dtype=np.float64)),
        "answer_tokens": float(np.mean(found["tokens"])),
        "count": len(found["correct"]),
        **{f"answer_{name}": share for name, share in named_failures(found).items()},
    }
    return {
        **{f"{prefix}/{name}": value for name, value in columns.items()},
        f"{OUTCOMES}/{prefix}": pack_outcomes(found["correct"]),
    }


def prior(
    asking: Asking,
    suites: Mapping[str, OnHost],
    *,
    part: int,
    others: Sequence[Measurement] = (),  # of more prior tasks, `prior/<name>/accuracy` and `count`
) -> Measurement:
    """Greedy accuracy on each prior task, and their mean, in which each weighs the same."""
    each = [success(asking, f"prior/{name}", on, part=part) for name, on in suites.items()]
    named = [f"{name}/accuracy" for name in suites]
    named += [name for other in others for name in other.beside]

    def of(params: Params, base: Params, kept: Any, key: jax.Array) -> Columns:
        columns: dict[str, Any] = {}
        for measurement in (*each, *others):
            columns |= measurement.of(params, base, kept, key)
        columns["prior/accuracy"] = float(np.mean([columns[f"prior/{name}"] for name in named]))
        counts = [name.removesuffix("accuracy") + "count" for name in named]
        columns["prior/count"] = sum(columns[f"prior/{name}"] for name in counts)
        return columns

    return Measurement("prior", of, beside=("accuracy", *named))


def divergence(
    asking: Asking,
    prefix: str,
    on: Sequence[OnHost],
    *,
    rows_at_once: int,
    part: int,
    own: bool = True,  # KL(policy || base) too, on answers of the policy
) -> Measurement:
    """Exact KL on sampled answers of the base, and of the policy, to the same questions."""
    policy = asking.policy
    measure = distances(policy, rows_at_once=rows_at_once)

    def sampled(params: Params, key: jax.Array) -> list[tuple[int, Rows, range]]:
        return [
            (which, rows, places)
            for which, questions in enumerate(on)
            for rows, places in asking(params, questions, jax.random.fold_in(key, which), AS_IT_IS)
        ]

    def compared(params: Params, base: Params, said: Sequence[Any]) -> dict[str, np.ndarray]:
        found = [
            to_host(measure(params, base, global_rows(rows, policy.mesh))) for _, rows, _ in said
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def keep(base: Params, key: jax.Array) -> Any:
        return sampled(base, jax.random.fold_in(key, part))

    def of(params: Params, base: Params, kept: Any, key: jax.Array) -> Columns:
        columns = dict(nats(compared(params, base, kept), "kl_base_policy_nats", prefix))
        if own:
            mine = sampled(params, jax.random.fold_in(key, part + 1))
            found = compared(params, base, mine)
            columns |= nats(found, "kl_policy_base_nats", prefix)
            columns |= nats(found, "entropy_nats", prefix)
            right = [judged(on[which], [(rows, places)])["correct"] for which, rows, places in mine]
            columns[f"{prefix}/sampled_accuracy"] = float(np.mean(np.concatenate(right)))
        return columns

    return Measurement(prefix, of, keep=keep)
