"""The critic of PPO: the value of a state, read from the policy's hidden states."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlrazor.models.mlp import MLP
from rlrazor.types import Params


class ValueHead(nn.Module):
    """ReLU layers of the given widths, then one number; f32 throughout.

    SFT Memorizes, RL Generalizes has 4096 -> 1024 -> 512 -> 1 (`widths=(1024, 512)`) on the hidden
    state of the last prompt token, in a trunk shared with the policy. The parameters are apart, and
    the caller decides whether the gradient enters the trunk.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(
        self,
        hidden: jax.Array,  # [B, T, D] any float
    ) -> jax.Array:  # f32[B, T]
        rows = hidden.astype(jnp.float32).reshape(-1, hidden.shape[-1])
        values, _ = MLP(widths=self.widths, classes=1, name="mlp")(rows)
        return values.reshape(hidden.shape[:-1])


def value_of(
    params: Params,  # of a ValueHead, whose widths they tell
    hidden: jax.Array,  # [B, T, D]
) -> jax.Array:  # f32[B, T]
    layers = params["params"]["mlp"]
    widths = [layers[f"Dense_{n}"]["bias"].shape[-1] for n in range(len(layers) - 1)]
    return ValueHead(widths).apply(params, hidden)  # type: ignore
