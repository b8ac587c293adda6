"""From a file of questions and answers to rows of tokens; what does not fit is counted."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Message = dict[str, str]  # {"role": ..., "content": ...}


@dataclasses.dataclass(frozen=True)
class Example:
    """A conversation whose last message is the assistant's."""

    asked: list[Message]
    answer: str


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An example as tokens."""

    tokens: np.ndarray  # i32[n]
    mask: np.ndarray | None  # bool[n] tokens that the assistant says; None for a prompt
    answer: str


@dataclasses.dataclass(frozen=True)
class Padded:
    """Rows of one batch; numbers of real tokens and of examples that were left out are kept."""

    tokens: np.ndarray  # i32[B, T]
    count: np.ndarray  # i32[B]
    mask: np.ndarray  # bool[B, T]


def read_examples(path: Path, *, asked: str, answer: str, system: str) -> list[Example]:
    """Examples of a JSON-lines file.

    A line is `{"messages": [{"role", "content"}, ...]}`, the last one the assistant's, or has the
    fields named `asked` and `answer`. `system` is put before a conversation that has no such
    message; "" puts nothing. ValueError names the line that is neither.
    """
    examples = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config.data.path={str(path)!r} cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                messages = _messages(json.loads(line), asked, answer)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} line {number} is neither {{'messages': [...]}} that end with the "
                    f"assistant's nor an object with the texts {asked!r} and {answer!r} ({error})"
                ) from error
            if system and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": system}, *messages]
            examples.append(Example(messages[:-1], messages[-1]["content"]))
    if not examples:
        raise ValueError(f"{path} has no examples")
    return examples


def _messages(record: Any, asked: str, answer: str) -> list[Message]:
    if "messages" in record:
        messages = [{"role": m["role"], "content": m["content"]} for m in record["messages"]]
    else:
        messages = [
            {"role": "user", "content": record[asked]},
            {"role": "assistant", "content": record[answer]},
        ]
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise ValueError("the last of two or more messages must be the assistant's")
    if not all(isinstance(text, str) for message in messages for text in message.values()):
        raise ValueError("roles and contents must be texts")
    return messages


def encode(
    examples: Sequence[Example], to_tokens: Callable[[Example], Encoded], *, longest: int
) -> tuple[list[Encoded], int]:
    """Examples as tokens, without those of more than `longest`, whose number comes second."""
    encoded = [to_tokens(example) for example in examples]
    kept = [example for example in encoded if len(example.tokens) <= longest]
    if not kept:
        shortest = min(len(example.tokens) for example in encoded)
        raise ValueError(
            f"none of {len(encoded)} examples has {longest} tokens or fewer, the shortest has "
            f"{shortest}; raise the longest length in the config"
        )
    return kept, len(encoded) - len(kept)


def pad(examples: Sequence[Encoded], size: int) -> Padded:
    """Rows of `size` tokens."""
    tokens = np.zeros((len(examples), size), np.int32)
    mask = np.zeros((len(examples), size), bool)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = example.tokens
        if example.mask is not None:
            mask[row, : len(example.tokens)] = example.mask
    return Padded(tokens, np.array([len(x.tokens) for x in examples], np.int32), mask)


def bucket(longest: int, buckets: Sequence[int]) -> int:
    """The smallest size that holds the longest row: few sizes, few programs to compile."""
    return next(size for size in sorted(buckets) if size >= longest)


def batches(count: int, size: int, *, seed: int, start: int) -> Iterator[np.ndarray]:
    """Indices i64[size] of batch `start` and all that follow it, in an order new for every epoch.

    A function of the seed and the batch's number, so that a resumed run reads what the
    uninterrupted one would have read. Examples at the end of an epoch that fill no batch wait for
    the next order; fewer examples than a batch are repeated.
    """
    in_epoch = max(count // size, 1)
    epoch, place = divmod(start, in_epoch)
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(count)
        rows = np.resize(order, max(count, size))
        for batch in range(place, in_epoch):
            yield rows[batch * size : (batch + 1) * size]
        epoch, place = epoch + 1, 0
