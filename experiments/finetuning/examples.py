"""The data of a run as tokens, and batches of it on the mesh."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.finetuning.data import (
    Encoded,
    batches,
    bucket,
    encode,
    pad,
)
from experiments.finetuning.programs import Prompts, Rows
from rlrazor.runtime.chat import Chat, prompt, render
from rlrazor.tasks.questions.lines import Example, read_examples


def conversations(config: Any, chat: Chat, path: str) -> tuple[list[Encoded], int]:
    """What SFT imitates, and how many were too long."""

    def tokens(example: Example) -> Encoded:
        found = render(chat, example.messages, **_variables(example))
        return Encoded(found.tokens, found.chosen, example.answer)

    return encode(_read(config, path), tokens, longest=max(config.row_buckets))


def questions(config: Any, chat: Chat, path: str) -> tuple[list[Encoded], int]:
    """What a policy answers, and how many were too long."""

    def tokens(example: Example) -> Encoded:
        tokens = prompt(chat, example.asked, **_variables(example))
        return Encoded(tokens, None, example.answer)

    return encode(_read(config, path), tokens, longest=max(config.prompt_buckets))


def _variables(example: Example) -> dict[str, Any]:
    return {} if example.tools is None else {"tools": example.tools}


def _read(config: Any, path: str) -> list[Example]:
    data = config.data
    if not path:
        raise ValueError("config.data.path is empty; give a file of JSON lines")
    return read_examples(
        path, field="config.data.path", asked=data.asked, answer=data.answer, system=data.system
    )


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of examples, the same for the same number in whatever process asks."""

    examples: Sequence[Encoded]
    size: int  # examples of a batch
    buckets: Sequence[int]
    seed: int
    at: Any  # where rows lie

    def batches(self, start: int) -> Iterator[tuple[Rows, list[str]]]:
        """Rows on the mesh from batch number `start` on, and their examples' right answers."""
        for chosen in batches(len(self.examples), self.size, seed=self.seed, start=start):
            examples = [self.examples[i] for i in chosen]
            yield self.rows(examples), [example.answer for example in examples]

    def rows(self, examples: Sequence[Encoded]) -> Rows:
        longest = max(len(example.tokens) for example in examples)
        padded = pad(examples, bucket(longest, self.buckets))
        return Rows(*(put(x, self.at) for x in (padded.tokens, padded.count, padded.mask)))


def prompts_of(rows: Rows) -> Prompts:
    return Prompts(rows.tokens, rows.count)


def put(array: np.ndarray, at: Any) -> jax.Array:
    """Onto the mesh from a copy that every process has: each sends what its own devices hold."""
    return jax.make_array_from_callback(array.shape, at, lambda index: array[index])
