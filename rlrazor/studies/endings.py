"""How likely a model finds given endings of given contexts: what choices are measured by.

Endings of one context are scored together, and the context is read once. Lengths come in few sizes,
so that few programs are compiled.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.policies.policy import Policy
from rlrazor.runtime.mesh import compile_once, holders_of
from rlrazor.studies.measurements import as_it_is
from rlrazor.studies.programs import by_rows
from rlrazor.types import Params, Rows

SHORTEST, MOST_ENDINGS = 8, 8
Request = tuple[Sequence[int], Sequence[int]]  # a context and an ending, each of one id or more


def scorer(policy: Policy) -> Any:
    """`(params, rows) -> f32[B] log-likelihood of what the mask keeps, bool[B] whether greedy`.

    In nats at temperature 1; greedy where every token is the likeliest. Compiled for each size.
    """
    plain = as_it_is(policy)

    def judge(log_policy: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        said = jnp.take_along_axis(log_policy, tokens[..., None], axis=-1)[..., 0]
        return said, jnp.argmax(log_policy, axis=-1) == tokens

    def of_rows(params: Params, rows: Rows) -> tuple[jax.Array, jax.Array]:
        said, likeliest = plain.over_vocabulary(judge, plain.read(params, rows))
        nats = jnp.sum(jnp.where(rows.mask, said, 0.0), axis=1)
        return nats, jnp.all(likeliest | ~rows.mask, axis=1)

    @compile_once
    def score(params: Params, rows: Rows) -> tuple[jax.Array, jax.Array]:
        return by_rows(of_rows, policy, params, rows, rows.count.size)

    return score


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one size, as arrays of the host, and which requests they answer."""

    tokens: np.ndarray  # i32[B, T]
    prompt_count: np.ndarray  # i32[B]
    count: np.ndarray  # i32[B]
    prompt_size: int
    samples: int
    places: np.ndarray  # i64[B] of the request; -1 for a row of padding


def batches(requests: Sequence[Request], *, rows: int, policy: Policy) -> Iterator[Batch]:
    """All requests, the longest first; `rows` of a device at a time, or one context's if more.

    ValueError for a context or an ending without a token.
    """
    groups = sorted(_groups(requests), key=lambda group: group[0], reverse=True)
    devices = holders_of(policy.mesh)
    start = 0
    while start < len(groups):
        size = groups[start][0]
        samples = size[2]
        count = max(rows // samples, 1) * devices
        same = [places for each, places in groups[start : start + count] if each == size]
        start += len(same)
        yield _batch(requests, same, size, count)


def _groups(requests: Sequence[Request]) -> Iterator[tuple[tuple[int, int, int], list[int]]]:
    """Places of at most so many endings of one context, after the sizes that hold them."""
    of_context: dict[tuple[int, ...], list[int]] = {}
    for place, (context, ending) in enumerate(requests):
        if not len(context) or not len(ending):
            raise ValueError(f"request {place} has a context or an ending without a token")
        of_context.setdefault(tuple(context), []).append(place)
    for context, places in of_context.items():
        for first in range(0, len(places), MOST_ENDINGS):
            some = places[first : first + MOST_ENDINGS]
            longest = max(len(requests[place][1]) for place in some)
            size = _size(longest, 4), _size(len(context), 2), _size(len(some), 2, shortest=1)
            yield size, some


def _size(count: int, factor: int, shortest: int = SHORTEST) -> int:
    """1, or the least of 8, 8 x factor, ... that holds so many."""
    if count == 1:
        return 1
    size = shortest
    while size < count:
        size *= factor
    return size


def _batch(
    requests: Sequence[Request],
    groups: Sequence[Sequence[int]],
    size: tuple[int, int, int],
    count: int,  # of groups, padding included
) -> Batch:
    longest, prompt_size, samples = size
    tokens = np.zeros((count * samples, prompt_size + longest), np.int32)
    prompt_count, total = np.ones(len(tokens), np.int32), np.ones(len(tokens), np.int32)
    places = np.full(len(tokens), -1)
    for n, some in enumerate(groups):
        for k in range(samples):
            row, place = n * samples + k, some[min(k, len(some) - 1)]
            context, ending = requests[place]
            prompt_count[row], total[row] = len(context), len(context) + len(ending)
            tokens[row, : total[row]] = [*context, *ending]
            places[row] = place if k < len(some) else -1
    return Batch(tokens, prompt_count, total, prompt_size, samples, places)


def rows_of(batch: Batch, place: Any) -> Rows:
    """The batch as rows; `place(tree)` puts arrays onto the mesh."""
    at = np.arange(batch.tokens.shape[1])[None]
    mask = (at >= batch.prompt_count[:, None]) & (at < batch.count[:, None])
    tokens, count, mask, prompt_count = place((batch.tokens, batch.count, mask, batch.prompt_count))
    return Rows(
        tokens, count, mask, prompt_count, prompt_size=batch.prompt_size, samples=batch.samples
    )


def collected(found: Iterable[tuple[Batch, Any]], count: int) -> list[tuple[float, bool]]:
    """The scores of each request, in their order."""
    nats, greedy = np.zeros(count), np.zeros(count, bool)
    for batch, (of_rows, likeliest) in found:
        real = batch.places >= 0
        nats[batch.places[real]] = np.asarray(of_rows)[real]
        greedy[batch.places[real]] = np.asarray(likeliest)[real]
    return [(float(n), bool(g)) for n, g in zip(nats, greedy, strict=True)]
