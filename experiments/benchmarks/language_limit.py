"""The limit of the language benchmark: the products of its matrices, and nothing else."""

import itertools
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import gemm
from experiments.benchmarks.language_programs import Sizes
from rlrazor.models.transformer_config import TransformerConfig

ROWS = (512, 1024, 4096)  # of a product; the machine's rate is the best of them


def chain(config: TransformerConfig) -> tuple[int, ...]:
    """Widths of an MLP with the products of the model: the same matrices, in an order that fits.

    Gate, up and down are three matrices of one size and so do for any two layers: in, out, in, ...
    """
    c = config
    query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
    attention = (query, c.width, key, c.width)  # query, output, key, value: each once, some turned
    wide = itertools.islice(itertools.cycle((c.mlp_width, c.width)), 3 * c.layers)
    widths = (c.width, *(attention * c.layers), *wide)
    return (*widths, *((c.width,) if widths[-1] != c.width else ()), c.vocabulary)


def useful_flops(config: TransformerConfig, sizes: Sizes) -> dict[str, float]:
    """FLOPs of the products with matrices: 2 N a token that is read, 6 N one that is learnt.

    Attention's own are not counted, and a prompt once for all its answers. `gemm` is what `make`
    does.
    """
    matrices = sum(a * b for a, b in itertools.pairwise(chain(config)))
    answers = sizes.prompts * sizes.samples
    read = sizes.prompts * sizes.prompt_tokens + answers * sizes.answer_tokens
    rollout, update = 2 * matrices * read, 6 * matrices * read
    return {
        "sft_step": 6.0 * matrices * sizes.rows * sizes.tokens,
        "grpo_rollout": float(rollout),
        "grpo_update": float(update),
        "grpo_iteration": float(rollout + update),
        "gemm": float(gemm.step_flops(chain(config), sizes.rows * sizes.tokens)),
    }


def learnt_flops(config: TransformerConfig, rows: int, tokens: int) -> float:
    """Model FLOPs of a gradient over whole rows: what is worked out twice counts once.

    6 N a token, N the weights of the matrices, and attention's own products with the tokens that
    a token sees, half of the row in the mean.
    """
    matrices = sum(a * b for a, b in itertools.pairwise(chain(config)))
    seen = config.layers * config.heads * config.head_dim * tokens
    return 6.0 * rows * tokens * (matrices + seen)


def decoded_bytes(
    config: TransformerConfig,
    sizes: Sizes,
    parameters: int,
    devices: int,  # that share the rows, and of which each reads all weights
) -> float:
    """Least bytes that a rollout reads, on all devices, if numbers have two bytes.

    At every token all weights, and the keys and values of what was said so far.
    """
    c, s = config, sizes
    said = s.prompt_tokens + s.answer_tokens / 2
    cache = 2 * c.layers * s.prompts * s.samples * said * c.kv_heads * c.head_dim
    return 2.0 * s.answer_tokens * (parameters * devices + cache)


def in_steps(sizes: Sizes, devices: int, rows: int) -> tuple[int, int]:
    """Rows of a product, near `rows`, and steps of a device, that together are an SFT step's."""
    mine = sizes.rows * sizes.tokens // devices
    steps = max(round(mine / rows), 1)
    return mine // steps, steps


def make(config: TransformerConfig, sizes: Sizes, mesh: Any, *, rows: int) -> Callable[[], None]:
    """Returns a call that does the products of an SFT step, so many rows at a time."""
    rows, steps = in_steps(sizes, mesh.size, rows)
    return gemm.make_jax(chain(config), rows, mesh.size, mesh, steps=steps)
