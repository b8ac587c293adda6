"""Small language models whose every parameter matters: no bias at zero, no scale at one."""

import dataclasses
import functools

import jax
import numpy as np

from rlrazor.models.rope import Llama3Scaling
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig

# Every switch that adds something is on; head_dim is not width / heads.
FULL = TransformerConfig(
    vocabulary=29,
    width=12,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=6,
    mlp_width=20,
    qkv_bias=True,
    qk_norm=True,
    rope_base=100.0,
    # Wavelengths are 6.3, 29 and 135 positions: one is kept, one is mixed, one is slowed.
    rope_scaling=Llama3Scaling(4.0, 1.0, 4.0, 64),
)
PLAIN = dataclasses.replace(FULL, qkv_bias=False, qk_norm=False, tied_head=True, rope_scaling=None)


# Compiling is most of these tests' time; unoptimised code takes half of it.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make(config: TransformerConfig, seed: int = 0):
    """The model and parameters drawn without it: scales around one, all others around zero."""
    model = Transformer(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2), np.int32))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(mean, 0.3, leaf.shape).astype(leaf.dtype)

    return model, jax.tree.map_with_path(draw, shapes)


def with_embedding(params, table):
    """The parameters with another table [V, D]."""
    return {"params": {**params["params"], "embed": {"embedding": table}}}
