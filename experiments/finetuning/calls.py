"""The arguments of every program of a step as shapes: to compile before there are any."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.finetuning.programs import Answers, Programs, Prompts, Rows
from experiments.finetuning.settings import rows_of
from rlrazor.runtime.mesh import on_mesh


def calls(
    config: Any,
    programs: Programs,
    mesh: Mesh,
    size: int,  # of the bucket: tokens of a conversation, or of a prompt
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Names of programs and their arguments, as a run calls them."""
    whole, state = on_mesh(mesh), programs.state
    base = programs.params if config.lora.rank else None

    def shaped(shape: tuple[int, ...], dtype: Any, at: Any = programs.rows_at) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=at)

    def rows(count: int, size: int) -> tuple[Any, Any, Any]:
        tokens, mask = shaped((count, size), jnp.int32), shaped((count, size), bool)
        return tokens, shaped((count,), jnp.int32), mask

    if config.method == "sft":
        yield "imitate", (state, base, Rows(*rows(config.rows, size)))
        return
    asked = [
        shaped(shape, jnp.int32, whole) for shape in ((config.prompts, size), (config.prompts,))
    ]
    key = shaped((), jax.eval_shape(jax.random.key, 0).dtype, whole)
    yield "sample", (programs.params, Prompts(*asked), key, shaped((), jnp.float32, whole))
    count, total = rows_of(config), size + config.answer_tokens
    answers = Answers(
        *rows(count, total), shaped((count, total), jnp.float32), shaped((count,), bool)
    )
    yield "reinforce", (state, base, answers, shaped((count,), jnp.float32))


def buckets_of(config: Any) -> tuple[int, ...]:
    return config.row_buckets if config.method == "sft" else config.prompt_buckets
