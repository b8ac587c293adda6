"""Both axes of a policy: what it can do, how far it is from the base, what it forgot."""

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from experiments.finetuning.data import Encoded
from experiments.finetuning.examples import Feed, prompts_of
from experiments.finetuning.programs import Answers, Programs, Rows
from rlrazor.runtime.chat import Chat
from rlrazor.tasks.questions.final_answer import is_right
from rlrazor.types import Params


class Measure:
    """Questions of the new task and of prior ones, the same at every checkpoint."""

    def __init__(
        self,
        programs: Programs,
        chat: Chat,
        base: Params,
        tests: Mapping[str, Sequence[Encoded]],  # "new", "prior/<name>"
        *,
        count: int,  # of questions of each
        share: int,  # devices among which rows are divided
        buckets: Sequence[int],
        key: jax.Array,
    ):
        self._programs, self._chat, self._base, self._key = programs, chat, base, key
        self._asked, self._truths = {}, {}
        for name, examples in tests.items():
            chosen = examples[:count]
            # Repeated until the devices share them; the repeated ones are not looked at.
            rows = [chosen[i % len(chosen)] for i in range(-(-len(chosen) // share) * share)]
            self._asked[name] = Feed(rows, len(rows), buckets, 0, programs.rows_at).rows(rows)
            self._truths[name] = [example.answer for example in chosen]
        if "new" in tests:
            self._of_base = self._answers(base, "new", temperature=1.0)
        self._at_base = self._accuracies(base)

    def __call__(self, policy: Params) -> dict[str, float]:
        """Numbers by name, as results.jsonl has them; nothing for tasks without questions."""
        found = dict(self._at_base) if policy is self._base else self._accuracies(policy)
        for name in ("new", "prior"):
            if f"{name}/accuracy" in found:
                found[f"{name}/base_accuracy"] = self._at_base[f"{name}/accuracy"]
        return found | (self._distances(policy) if "new" in self._asked else {})

    def _accuracies(self, policy: Params) -> dict[str, float]:
        found = {}
        for name, truths in self._truths.items():
            said = texts(self._answers(policy, name, temperature=0.0), self._chat)
            right = [is_right(text, truth) for text, truth in zip(said, truths, strict=False)]
            found[f"{name}/accuracy"], found[f"{name}/count"] = float(np.mean(right)), len(right)
        prior = [value for name, value in found.items() if re.match("prior/.*/accuracy", name)]
        return found | ({"prior/accuracy": float(np.mean(prior))} if prior else {})

    def _distances(self, policy: Params) -> dict[str, float]:
        """KL on answers of the base and of the policy to the same questions, and of those."""
        mine = self._answers(policy, "new", temperature=1.0)
        found, sums = {}, {}
        for name, answers in (("kl_base_policy", self._of_base), ("kl_policy_base", mine)):
            rows = Rows(answers.tokens, answers.count, answers.mask)
            sums = jax.device_get(self._programs.measure(policy, self._base, rows))
            total = float(sums[f"{name}_nats"])
            found[f"new/{name}_nats"] = total / float(sums["answers"])
            found[f"new/{name}_nats_per_token"] = total / float(sums["tokens"])
        return found | {
            "new/entropy_nats_per_token": float(sums["entropy_nats"] / sums["tokens"]),
            "new/answer_tokens": float(sums["tokens"] / sums["answers"]),
            "new/answer_cut": 1 - float(jnp.mean(mine.stopped)),
        }

    def _answers(self, policy: Params, name: str, *, temperature: float) -> Answers:
        prompts = prompts_of(self._asked[name])
        return self._programs.answer(policy, prompts, self._key, jnp.float32(temperature))


def texts(answers: Answers, chat: Chat) -> list[str]:
    """What each row's policy said, on every process."""
    tokens, mask = multihost_utils.process_allgather((answers.tokens, answers.mask), tiled=True)
    decode = chat.tokenizer.decode
    return [
        decode(row[said], skip_special_tokens=True) for row, said in zip(tokens, mask, strict=True)
    ]
