"""How far the weights have moved from the base's.

These are the weight-space predictors of RL's Razor (arXiv 2509.04259), Table 1, where they explain
forgetting worse than the KL does; rank and sparsity did not vary there at all.
"""

import chex
import jax
import jax.numpy as jnp

from rlrazor.types import Metrics, Params


def weight_change(
    base_params: Params,
    params: Params,
    fisher: Params,  # diagonal Fisher information of the base, like params
    *,
    sparsity_threshold: float | jax.Array,
) -> Metrics:
    """Sizes and shape of dw = params - base_params, in float32.

    Over all weights, biases included:
    `l1` = sum |dw|; `l2` = sqrt(sum dw^2); `fisher_l2` = sqrt(sum F dw^2), with F from
    `evaluation.fisher`, on the prior task's inputs in the paper's table.

    Over the matrices, which are the leaves with two axes:
    `spectral_norm` is the largest singular value of any matrix's change (a maximum, not a sum);
    `rank` is the mean over matrices of numerical rank / min(rows, columns), in [0, 1], a singular
    value counting above max(rows, columns) * eps(float32) * the largest one, which is the default
    tolerance of `numpy.linalg.matrix_rank`.

    `sparsity` is the fraction of weights with |dw| <= sparsity_threshold * max(|base|, |w|), on the
    float32 weights; at threshold 0 it counts the weights that are exactly equal.
    `sparsity_bf16` is the same fraction after rounding base and policy to bfloat16, the format in
    which sparse updates of RL have been reported. At the threshold 1e-3 of "The Path Not Taken"
    (arXiv 2511.08567), and anywhere below 2^-8, bfloat16 weights pass only when they are equal
    bit for bit. (The "RL subnetwork" paper, arXiv 2505.11711, uses an absolute 1e-5 instead, which
    depends on the scale of the weights.) The gap between the two keys is what storage hides.

    Over runs prefer `lax.map` to `vmap`: a batched SVD is no faster on a CPU, and a TPU's compiler
    takes four times as long over it.

    A weight that is not finite makes every entry NaN: a diverged run must not look sparse.
    """
    chex.assert_trees_all_equal_shapes(base_params, params, fisher)
    base, policy = _float32_leaves(base_params), _float32_leaves(params)
    changes = [w - b for b, w in zip(base, policy, strict=True)]
    squares = [jnp.square(change) for change in changes]
    spectral_norm, rank = _spectrum(changes)
    metrics = {
        "l1": sum(jnp.sum(jnp.abs(change)) for change in changes),
        "l2": jnp.sqrt(sum(jnp.sum(square) for square in squares)),
        "fisher_l2": jnp.sqrt(
            sum(
                jnp.sum(f * square)
                for f, square in zip(_float32_leaves(fisher), squares, strict=True)
            )
        ),
        "spectral_norm": spectral_norm,
        "rank": rank,
        "sparsity": _unchanged_fraction(base, policy, sparsity_threshold),
        "sparsity_bf16": _unchanged_fraction(
            _as_stored_in_bfloat16(base), _as_stored_in_bfloat16(policy), sparsity_threshold
        ),
    }
    finite = jnp.isfinite(metrics["l1"])
    return {name: jnp.where(finite, value, jnp.nan) for name, value in metrics.items()}


def _spectrum(changes: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Largest singular value of any matrix, and mean of numerical rank / full rank."""
    matrices = [change for change in changes if change.ndim == 2]
    if not matrices:
        raise ValueError(
            f"params has leaves of shapes {[change.shape for change in changes]} and no matrix; "
            "spectral norm and rank need at least one leaf with two axes"
        )
    largest, ranks = [], []
    for matrix in matrices:
        singular_values = jnp.linalg.svd(matrix, compute_uv=False)  # descending
        tolerance = max(matrix.shape) * jnp.finfo(jnp.float32).eps * singular_values[0]
        largest.append(singular_values[0])
        ranks.append(jnp.mean(singular_values > tolerance, dtype=jnp.float32))
    return jnp.max(jnp.stack(largest)), jnp.mean(jnp.stack(ranks))


def _unchanged_fraction(
    base: list[jax.Array], policy: list[jax.Array], threshold: float | jax.Array
) -> jax.Array:
    unchanged = sum(
        jnp.sum(jnp.abs(w - b) <= threshold * jnp.maximum(jnp.abs(b), jnp.abs(w)))
        for b, w in zip(base, policy, strict=True)
    )
    return jnp.asarray(unchanged, jnp.float32) / sum(b.size for b in base)


def _as_stored_in_bfloat16(leaves: list[jax.Array]) -> list[jax.Array]:
    # Not astype there and back: XLA may drop such a pair, and the rounding with it.
    return [jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7) for x in leaves]


def _float32_leaves(tree: Params) -> list[jax.Array]:
    return [jnp.asarray(leaf, jnp.float32) for leaf in jax.tree.leaves(tree)]
