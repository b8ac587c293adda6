"""The small parts of a decoder layer: linear map, RMSNorm, gated MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlrazor.models.transformer_config import TransformerConfig


class Linear(nn.Module):
    """x @ kernel + bias, drawn with variance scale / in: at scale 1 it keeps the size of x.

    Adapters in the collection "lora" are applied beside the kernel.
    """

    config: TransformerConfig
    features: int
    bias: bool = False
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [..., in] -> [..., features]
        c = self.config
        draw = nn.initializers.variance_scaling(self.scale, "fan_in", "truncated_normal")
        kernel = self.param("kernel", draw, (x.shape[-1], self.features), c.param_dtype)
        x = x.astype(c.compute_dtype)
        y = matmul(x, kernel.astype(c.compute_dtype))
        if self.has_variable("lora", "a"):  # see lora.apply_beside
            a, b = (self.get_variable("lora", name).astype(c.compute_dtype) for name in "ab")
            y = y + matmul(matmul(x, a), b)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), c.param_dtype)
            y = y + jnp.expand_dims(bias.astype(c.compute_dtype), range(y.ndim - 1))
        return y


def matmul(
    x: jax.Array,  # [..., in]
    kernel: jax.Array,  # [in, out]
    out_dtype: jax.typing.DTypeLike | None = None,  # that of the sums; x's own if None
) -> jax.Array:  # [..., out]
    """x @ kernel over one flat axis of rows.

    The gradient of the kernel then sums over one axis: on a CPU a training step of the MLP takes
    half the time that it takes with [B, T] kept apart.
    """
    rows = x.reshape(-1, x.shape[-1])
    y = jnp.matmul(rows, kernel, preferred_element_type=out_dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis, in f32 (arXiv 1910.07467)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [..., D] -> [..., D]
        c = self.config
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], c.param_dtype)
        wide = x.astype(jnp.float32)
        size = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + c.norm_epsilon)
        scale = jnp.expand_dims(scale.astype(jnp.float32), range(x.ndim - 1))
        return (wide * size * scale).astype(c.compute_dtype)


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [..., D] -> [..., D]
        c = self.config
        gate = Linear(c, c.mlp_width, name="gate")(x)
        up = Linear(c, c.mlp_width, name="up")(x)
        down = Linear(c, c.width, scale=1 / (2 * c.layers), name="down")
        return down(nn.silu(gate) * up)
