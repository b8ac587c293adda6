"""What a language model says of tokens, over a vocabulary too large to keep its logits."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from rlrazor.models.transformer import Transformer
from rlrazor.ops.chunked import in_chunks
from rlrazor.types import Params


def over_vocabulary(
    fn: Callable[..., Any],  # (f32[B, n, V] logits of each, [B, n, ...] arrays) -> tree of [B, n]
    model: Transformer,
    states: Sequence[tuple[Params, jax.Array]],  # parameters, hidden states [B, T, D] to judge
    *arrays: jax.Array,  # [B, T, ...] what fn is given besides
    size: int,  # tokens of a row whose logits are in memory at a time
) -> Any:  # tree of [B, T]
    """fn(*logits, *arrays), for a few tokens of every row at a time, on the mesh that holds them.

    `over_vocabulary(token_logprobs, model, [(params, hidden)], tokens, size=256)` scores tokens;
    with two states, fn can compare them, as `kl` does of their log-softmax.
    """
    name = "embed" if model.config.tied_head else "head"
    heads = [{"params": {name: params["params"][name]}} for params, _ in states]
    alone = Transformer(model.config)  # `on_rows` leaves no mesh to lay anything on

    def judge(heads, rows):
        def chunk(*chunks):
            logits = [
                alone.apply(head, hidden, method="logits")
                for head, hidden in zip(heads, chunks, strict=False)
            ]
            return fn(*logits, *chunks[len(heads) :])

        return in_chunks(chunk, *rows, size=size)

    rows = (*(hidden for _, hidden in states), *arrays)
    return (model.layout.on_rows(judge) if model.layout else judge)(heads, rows)
