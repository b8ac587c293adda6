"""How a language model lies on a mesh: which axis cuts which dimension of what.

`tensor` cuts heads, the width of the MLP and the vocabulary (Megatron-LM, arXiv 1909.08053), so
that a layer needs two sums over it; `fsdp` cuts the other dimension of every matrix, which a device
gathers when it comes to the layer (ZeRO-3, arXiv 1910.02054).
"""

from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.types import ROWS, Rule

TABLE = ("tensor", "fsdp")  # [V, D]
# Activations.
TOKENS_BY_COLUMN = ("data", None)  # i32[B, T]
EMBEDDED = ("data", None, "fsdp")  # [B, T, D]
RESIDUAL = (ROWS, None, None)  # [B, T, D]
HEADS = (ROWS, None, "tensor", None)  # [B, T, H, Dh]
CACHE_RULES = (
    Rule("keys|values", (None, ROWS, "tensor", None, None)),  # [L, B, K, S, Dh]
    Rule("filled", (ROWS,)),
)
# A critic is small: every device has all of it.
VALUE_HEAD_RULES = (Rule(r"Dense_\d+/(kernel|bias)", ()),)


def transformer_rules(config: TransformerConfig) -> tuple[Rule, ...]:
    """For the parameters of `Transformer`, and whatever repeats their paths, as optimizers do."""
    c = config
    return (
        Rule("embed/embedding", TABLE),
        Rule("head/kernel", ("fsdp", "tensor")),
        Rule("attention/query/kernel", (None, "fsdp", "tensor"), heads=c.heads),
        Rule("attention/(key|value)/kernel", (None, "fsdp", "tensor"), heads=c.kv_heads),
        Rule("attention/query/bias", (None, "tensor"), heads=c.heads),
        Rule("attention/(key|value)/bias", (None, "tensor"), heads=c.kv_heads),
        Rule("attention/output/kernel", (None, "tensor", "fsdp"), heads=c.heads),
        Rule("mlp/(gate|up)/kernel", (None, "fsdp", "tensor")),
        Rule("mlp/down/kernel", (None, "tensor", "fsdp")),
        Rule("(attention|mlp|query|key|final)_norm/scale", ()),
    )
