"""From examples to rows of tokens; what does not fit is counted."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlrazor.tasks.questions.lines import Example


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
