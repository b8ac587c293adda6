"""Shapes of released models by hub id: what can be planned without their weights at hand."""

from typing import Any

from rlrazor.models.rope import Llama3Scaling
from rlrazor.models.transformer_config import TransformerConfig


def _qwen2(
    width: int, layers: int, heads: int, kv_heads: int, mlp_width: int, **changes: Any
) -> TransformerConfig:
    return TransformerConfig(
        **{"vocabulary": 151_936, "tied_head": True, **changes},
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width // heads,
        mlp_width=mlp_width,
        qkv_bias=True,
        rope_base=1e6,
    )


def _qwen3(
    width: int, layers: int, heads: int, mlp_width: int, *, tied_head: bool = True
) -> TransformerConfig:
    return TransformerConfig(
        vocabulary=151_936,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        mlp_width=mlp_width,
        qk_norm=True,
        tied_head=tied_head,
        rope_base=1e6,
    )


def _llama3(
    width: int, layers: int, heads: int, mlp_width: int, *, tied_head: bool, factor: float
) -> TransformerConfig:
    return TransformerConfig(
        vocabulary=128_256,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=width // heads,
        mlp_width=mlp_width,
        tied_head=tied_head,
        norm_epsilon=1e-5,
        rope_base=5e5,
        rope_scaling=Llama3Scaling(
            factor=factor,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
    )


# Instruct models have the shape of the base models that they were made from.
SHAPES = {
    "Qwen/Qwen2.5-0.5B": _qwen2(896, 24, 14, 2, 4864),
    "Qwen/Qwen2.5-1.5B": _qwen2(1536, 28, 12, 2, 8960),
    "Qwen/Qwen2.5-3B": _qwen2(2048, 36, 16, 2, 11_008),
    "Qwen/Qwen2.5-7B": _qwen2(3584, 28, 28, 4, 18_944, vocabulary=152_064, tied_head=False),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144),
    "Qwen/Qwen3-4B": _qwen3(2560, 36, 32, 9728),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12_288, tied_head=False),
    "meta-llama/Llama-3.2-1B": _llama3(2048, 16, 32, 8192, tied_head=True, factor=32.0),
    "meta-llama/Llama-3.2-3B": _llama3(3072, 28, 24, 8192, tied_head=True, factor=32.0),
    "meta-llama/Llama-3.1-8B": _llama3(4096, 32, 32, 14_336, tied_head=False, factor=8.0),
}


def released_shape(name: str) -> TransformerConfig | None:
    """Of `name` or of the base model whose `-Instruct` version it is; None if it is not listed."""
    return SHAPES.get(name.removesuffix("-Instruct"))
