"""Multilayer perceptron: the policy of the bandit experiments (RL's Razor, Appendix B.3)."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax


class MLP(nn.Module):
    """ReLU layers of the given widths, then one linear layer to the classes.

    The paper does not state its activation; ReLU is what its replications use.
    """

    widths: Sequence[int]
    classes: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # f32[..., D]
    ) -> tuple[jax.Array, jax.Array]:  # logits f32[..., V], last hidden activations f32[..., W]
        chex.assert_type(x, float)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x), x
