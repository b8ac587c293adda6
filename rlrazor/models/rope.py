"""Rotary positions (arXiv 2104.09864), in the half-split layout of Hugging Face's checkpoints."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 and later stretch the context: slow rotations slowed further, fast ones kept.

    A pair that turns less than `low_freq_factor` times in the original context turns `factor`
    times slower; one that turns more than `high_freq_factor` times is kept; between them the two
    frequencies are mixed in proportion to the number of turns.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"rope scaling needs 0 < low_freq_factor < high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}"
            )
        if self.factor <= 0 or self.original_max_position_embeddings <= 0:
            raise ValueError(
                f"rope scaling needs a positive factor and original_max_position_embeddings, got "
                f"{self.factor} and {self.original_max_position_embeddings}"
            )

    def __call__(
        self,
        frequencies: np.ndarray,  # f64[Dh/2] radians a position
    ) -> np.ndarray:  # f64[Dh/2]
        turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0.0, 1.0)
        return kept * frequencies + (1 - kept) * frequencies / self.factor


def rope_frequencies(head_dim: int, *, base: float, scaling: Llama3Scaling | None) -> np.ndarray:
    """Radians a position of every rotated pair: base^(-2i / head_dim), then the scaling; f64."""
    frequencies = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    return frequencies if scaling is None else scaling(frequencies)


def rotations(
    positions: jax.Array,  # i32[B, T]
    frequencies: np.ndarray,  # f64[Dh/2]
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of position times frequency, f32[B, T, Dh/2] each."""
    angles = positions[..., None].astype(jnp.float32) * frequencies.astype(np.float32)[None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    heads: jax.Array,  # [B, T, H, Dh]
    rotation: tuple[jax.Array, jax.Array],  # f32[B or 1, T, Dh/2] cosines and sines
) -> jax.Array:  # [B, T, H, Dh]
    """Turns pair (i, i + Dh/2) of every head by its angle; computed in f32, returned as it came."""
    chex.assert_rank(heads, 4)
    cos, sin = (part[:, :, None, :] for part in rotation)
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(heads.dtype)
