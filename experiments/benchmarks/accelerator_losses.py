"""The part of accelerator.py that holds losses and gradients on a device beside a CPU's."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.language_programs import SMALL, TINY, endless_answers
from rlrazor.methods import methods
from rlrazor.methods.method import Method, Reads
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.policies.language import make_language_policy
from rlrazor.runtime.mesh import compile_once, make_mesh, on_mesh, place
from rlrazor.sampling.decode import Sampling
from rlrazor.types import FloatName, Params, Rows

Figures = dict[str, Any]
Found = tuple[float, Any]  # a loss, and its gradient on the host
VOCABULARY_CHUNK = 256
KINDS: dict[str, FloatName] = {"f32_highest": "float32", "bf16": "bfloat16"}
SAMPLES, PROMPT = 4, 16  # of a prompt; its tokens


def losses(*, tiny: bool) -> Figures:
    """How far losses and gradients on the device are from those of a CPU in float32.

    `_loss` is an absolute difference, `_gradient` the largest of any number, as a share of the
    largest number of the CPU's gradient.
    """
    shape = dataclasses.replace(TINY if tiny else SMALL, attention="auto")
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    params = jax.device_get(
        compile_once(Transformer(shape).init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    )
    rows = random_rows(shape.vocabulary, rows=8, tokens=32 if tiny else 128)
    figures: Figures = {"gradient_numbers": sum(leaf.size for leaf in jax.tree.leaves(params))}
    for method in (methods.sft, methods.grpo):
        truth = loss_on(cpu, shape, method, params, rows)
        for name, dtype in KINDS.items():
            found = loss_on(device, shape, method, params, rows, dtype)
            loss, gradient = differences(found, truth)
            figures |= {
                f"{method.name}_{name}_loss": loss,
                f"{method.name}_{name}_gradient": gradient,
            }
        figures[f"{method.name}_loss_of_cpu"] = truth[0]
    return figures


def loss_on(
    device: Any,
    shape: TransformerConfig,
    method: Method,
    params: Params,
    rows: Rows,
    dtype: FloatName = "float32",
) -> Found:
    """A method's loss as the update computes it; products of float32 at the highest precision."""
    mesh = make_mesh(data=1, devices=[device])
    policy = make_language_policy(
        dataclasses.replace(shape, compute_dtype=dtype),
        mesh,
        answers=endless_answers(shape.vocabulary, rows.tokens.shape[1]),
        sampling=Sampling(1.0),
        vocabulary_chunk=VOCABULARY_CHUNK,
    )

    def loss(params: Params, rows: Rows) -> jax.Array:
        return method.loss(policy, params, Reads(), rows)[0]

    there = place((params, rows), on_mesh(mesh))
    with jax.default_matmul_precision("highest"):
        found = compile_once(jax.value_and_grad(loss))(*there)
    value, gradient = jax.device_get(found)
    return float(value), gradient


def differences(found: Found, truth: Found) -> tuple[float, float]:
    """Of the losses, and of the gradients as a share of the largest number in the true one."""
    leaves = [jax.tree.leaves(gradient) for _, gradient in (found, truth)]
    apart = max(float(np.max(np.abs(a - b))) for a, b in zip(*leaves, strict=True))
    largest = max(float(np.max(np.abs(leaf))) for leaf in leaves[1])
    return abs(found[0] - truth[0]), apart / largest


def random_rows(vocabulary: int, *, rows: int, tokens: int) -> Rows:
    """Answers of several lengths to prompts that `SAMPLES` rows share, with advantages."""
    rng = np.random.default_rng(0)
    table = rng.integers(vocabulary, size=(rows, tokens), dtype=np.int32)
    table[:, :PROMPT] = np.repeat(table[::SAMPLES, :PROMPT], SAMPLES, axis=0)
    count = rng.integers(PROMPT + 1, tokens + 1, size=rows, dtype=np.int32)
    place = np.arange(tokens)
    mask = (place >= PROMPT) & (place < count[:, None])
    # Near those of random weights, so that some ratios are clipped and some are not.
    behaviour = rng.normal(-np.log(vocabulary), 0.3, size=table.shape).astype(np.float32)
    return Rows(
        table,  # type: ignore[arg-type]
        count,  # type: ignore[arg-type]
        mask,  # type: ignore[arg-type]
        prompt_count=np.full(rows, PROMPT, np.int32),  # type: ignore[arg-type]
        behaviour_logprobs=np.where(mask, behaviour, 0),  # type: ignore[arg-type]
        advantages=rng.normal(size=rows).astype(np.float32),  # type: ignore[arg-type]
        prompt_size=PROMPT,
        samples=SAMPLES,
    )
