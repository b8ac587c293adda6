"""The shape of a decoder-only language model, from a million parameters to Qwen and Llama."""

import dataclasses
from typing import Literal, get_args

from rlrazor.models.rope import Llama3Scaling
from rlrazor.types import FloatName

Remat = Literal["none", "dots", "full"]
Attending = Literal["einsum", "dot_product", "splash", "auto"]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes, then what tells the families apart, then how to compute.

    Qwen2.5 is `qkv_bias=True`, Qwen3 is `qk_norm=True`, Llama 3.1 and later set `rope_scaling`;
    small models of each tie the head to the embedding.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int  # each serves heads / kv_heads query heads
    head_dim: int  # need not be width / heads
    mlp_width: int

    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm of every query and key head, before the rotation
    tied_head: bool = False  # the head is the embedding
    norm_epsilon: float = 1e-6
    rope_base: float = 10_000.0
    rope_scaling: Llama3Scaling | None = None

    compute_dtype: FloatName = "float32"  # of matrices and the residual stream
    param_dtype: FloatName = "float32"
    scan_layers: bool = True  # one compiled layer, or (False) all of them in a row
    # What a layer keeps for its gradient: all it computed; its products with weights, from which
    # the rest is recomputed; or nothing but its input.
    remat: Remat = "none"
    # Of whole rows, without a cache; see `attend.causal_kernel`.
    attention: Attending = "einsum"

    def __post_init__(self):
        for name in ("vocabulary", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            allowed = [n for n in range(1, self.heads + 1) if self.heads % n == 0]
            raise ValueError(
                f"heads={self.heads} must be a multiple of kv_heads, got {self.kv_heads}; "
                f"kv_heads can be one of {allowed}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even, for rotary positions turn pairs; got {self.head_dim}, "
                f"try {self.head_dim + 1}"
            )
        for name, allowed in (
            ("compute_dtype", FloatName),
            ("param_dtype", FloatName),
            ("remat", Remat),
            ("attention", Attending),
        ):
            if getattr(self, name) not in (names := get_args(allowed)):
                raise ValueError(
                    f"{name} must be {' or '.join(map(repr, names))}, got {getattr(self, name)!r}"
                )
        for name in ("norm_epsilon", "rope_base"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
