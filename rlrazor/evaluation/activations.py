"""How far the representations have moved from the base's.

The first two are the activation rows of RL's Razor (arXiv 2509.04259), Table 1; CKNNA is how it
measures representational drift (.94 for RL and .56 for SFT at matched accuracy on language models).
"""

import chex
import jax
import jax.numpy as jnp

from rlrazor.types import Metrics

_EXACT = jax.lax.Precision.HIGHEST  # accelerators otherwise round the factors of a matmul


def activation_change(
    base: jax.Array,  # f32[N, D] activations of the base
    policy: jax.Array,  # f32[N, D] activations of the policy on the same inputs
    *,
    neighbours: int,
) -> Metrics:
    """Distance and similarity of two sets of activations.

    `activation_l1` and `activation_l2` are means over the inputs of sum_d |change| and
    sqrt(sum_d change^2), in units of the activations. `cka` and `cknna` are similarities, 1 for no
    change. CKNNA holds [N, N] arrays, so pass a subset of the inputs (the authors' is 1,024).
    """
    chex.assert_rank(base, 2)
    chex.assert_equal_shape([base, policy])
    base, policy = base.astype(jnp.float32), policy.astype(jnp.float32)
    change = policy - base
    return {
        "activation_l1": jnp.mean(jnp.sum(jnp.abs(change), axis=-1)),
        "activation_l2": jnp.mean(jnp.linalg.norm(change, axis=-1)),
        "cka": linear_cka(base, policy),
        "cknna": cknna(base, policy, neighbours=neighbours),
    }


def linear_cka(
    x: jax.Array,  # f32[N, D]
    y: jax.Array,  # f32[N, E]
) -> jax.Array:  # f32[] in [0, 1]
    """Linear centred kernel alignment, ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred X and Y.

    Kornblith et al. 2019 (arXiv 1905.00414), section 3. Invariant to rotation, shift and scale of
    either argument. Inputs without variation have no direction: two such are alike (1), one is
    unlike anything else (0).
    """
    x, y = _centred_unit_scale(x), _centred_unit_scale(y)

    def cross(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jnp.matmul(a.T, b, precision=_EXACT)))

    return _normalised(cross(x, y), cross(x, x), cross(y, y))


def cknna(
    x: jax.Array,  # f32[N, D]
    y: jax.Array,  # f32[N, E]
    *,
    neighbours: int,
) -> jax.Array:  # f32[] in [-1, 1]
    """Centred kernel alignment restricted to mutual nearest neighbours.

    Huh et al. 2024, "The Platonic Representation Hypothesis" (arXiv 2405.07987), equations 16-18,

        Align(K, L) = sum_ij alpha_ij (K_ij - mean_l K_il) (L_ij - mean_l L_il)
        CKNNA(K, L) = Align(K, L) / sqrt(Align(K, K) Align(L, L))

    with K and L the cosine similarities (as there, rows are scaled to length 1 first) and
    alpha_ij = 1 where j is among the `neighbours` nearest of i in both, i itself excluded; in
    Align(K, K), nearest in K alone. The authors' released code differs: it masks first and then
    takes an unbiased HSIC, whose self-terms may turn negative. The equations bound the value by
    Cauchy-Schwarz, so they are what is computed here. Degenerate inputs as in `linear_cka`.
    """
    N = x.shape[0]
    chex.assert_equal_shape_prefix([x, y], 1)
    if not 1 <= neighbours < N:
        raise ValueError(
            f"neighbours={neighbours} must be between 1 and N - 1 = {N - 1} for N={N} inputs; "
            "pass more inputs or ask for fewer neighbours"
        )
    K, L = _cosine_similarities(x), _cosine_similarities(y)
    near_x, near_y = _is_neighbour(K, neighbours), _is_neighbour(L, neighbours)
    K, L = _row_centred(K), _row_centred(L)

    def align(alpha: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(a * b, where=alpha)

    return _normalised(align(near_x & near_y, K, L), align(near_x, K, K), align(near_y, L, L))


def _normalised(cross: jax.Array, self_x: jax.Array, self_y: jax.Array) -> jax.Array:
    """cross / sqrt(self_x self_y); 0 / 0 is 1 when both sides vanish and 0 when one does."""
    defined = (self_x > 0) & (self_y > 0)
    # Two roots, since the product may underflow where neither factor does.
    scale = jnp.sqrt(jnp.where(defined, self_x, 1.0)) * jnp.sqrt(jnp.where(defined, self_y, 1.0))
    both_vanish = (self_x == 0) & (self_y == 0)
    limit = jnp.where(both_vanish, 1.0, 0.0)
    ratio = jnp.where(defined, cross / scale, limit)
    return jnp.where(jnp.isnan(self_x + self_y), jnp.nan, ratio)


def _centred_unit_scale(x: jax.Array) -> jax.Array:
    # Subtracting one row first makes constant inputs exactly zero, which their rounded mean would
    # not; fourth powers of the entries follow, so scale them to 1 or they leave float32's range.
    x = x - x[:1]
    x = x - jnp.mean(x, axis=0, keepdims=True)
    largest = jnp.max(jnp.abs(x))
    return x / jnp.where(largest == 0, 1.0, largest)


def _cosine_similarities(x: jax.Array) -> jax.Array:  # f32[N, N]; zero rows are similar to nothing
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    x = x / jnp.where(largest == 0, 1.0, largest)
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    x = x / jnp.where(length == 0, 1.0, length)
    return jnp.matmul(x, x.T, precision=_EXACT)


def _row_centred(K: jax.Array) -> jax.Array:
    centred = K - jnp.mean(K, axis=-1, keepdims=True)
    # Cosines of a collapsed representation differ by rounding alone, which is not structure.
    return jnp.where(jnp.abs(centred) <= 16 * jnp.finfo(K.dtype).eps, 0.0, centred)


def _is_neighbour(K: jax.Array, neighbours: int) -> jax.Array:  # bool[N, N]
    N = K.shape[0]
    _, nearest = jax.lax.top_k(jnp.where(jnp.eye(N, dtype=bool), -jnp.inf, K), neighbours)
    return jnp.zeros((N, N), bool).at[jnp.arange(N)[:, None], nearest].set(True)
