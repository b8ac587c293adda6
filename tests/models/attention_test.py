import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models import attention
from tests.oracles.tiny_transformers import quick

B, T, S, H, K, Dh = 2, 3, 5, 6, 2, 4
attend = quick(attention.attend)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = (B, T, H, Dh), (B, S, K, Dh), (B, S, K, Dh)
    query, key, value = (rng.normal(size=s).astype(np.float32) for s in shapes)
    visible = rng.random((B, T, S)) < 0.5
    visible[..., 0] = True
    return query, key, value, visible


def test_matches_loops_in_float64():
    query, key, value, visible = arrays()
    out = attend(query, key, value, visible)
    for b, t, h in np.ndindex(B, T, H):
        seen = [s for s in range(S) if visible[b, t, s]]
        scores = [np.dot(query[b, t, h], key[b, s, h // 3].astype(float)) / 2 for s in seen]
        weights = np.exp(scores) / np.sum(np.exp(scores))
        expected = sum(w * value[b, s, h // 3] for w, s in zip(weights, seen, strict=True))
        np.testing.assert_allclose(out[b, t, h], expected, atol=1e-6)


def test_grouped_heads_equal_repeated_full_heads():
    query, key, value, visible = arrays()
    full = attend(query, *(np.repeat(x, H // K, axis=2) for x in (key, value)), visible)
    np.testing.assert_allclose(attend(query, key, value, visible), full, atol=1e-6)


def test_hidden_keys_weigh_exactly_zero():
    query, key, value, visible = arrays()
    hidden = ~visible.any(1)[..., None, None]  # seen by no query
    assert hidden.any()
    out = attend(query, key, value, visible)
    loud = [np.where(hidden, x, y).astype(np.float32) for x, y in ((1e4, key), (-1e6, value))]
    np.testing.assert_array_equal(out, attend(query, *loud, visible))
    gradient = quick(jax.grad(lambda v: attention.attend(query, key, v, visible).sum()))(value)
    np.testing.assert_array_equal(np.where(hidden, gradient, 0.0), 0.0)


def test_one_mask_serves_all_rows():
    query, key, value, visible = arrays()
    same = np.broadcast_to(visible[:1], visible.shape)
    np.testing.assert_allclose(
        attend(query, key, value, visible[:1]), attend(query, key, value, same), atol=1e-6
    )


def test_softmax_is_in_float32():
    """Scores 100 and 100.4 are one number in bf16; their weights are not one half each."""
    query = jnp.full((1, 1, 1, 1), 100.0, jnp.bfloat16)
    key = jnp.asarray([1.0, 1.0078125], jnp.bfloat16).reshape(1, 2, 1, 1)
    value = jnp.asarray([0.0, 1.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    out = attend(query, key, value, jnp.ones((1, 1, 2), bool))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.item(), 1 / (1 + np.exp(-0.78125)), atol=4e-3)


def test_wrong_shapes_are_refused():
    query, key, value, visible = arrays()
    with pytest.raises(AssertionError):
        attend(query, key, value[:, :-1], visible)
    with pytest.raises(AssertionError):
        attend(query, key, value, visible.swapaxes(1, 2))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 2), (2, 1, 7, 4, 1, 2), (1, 5, 5, 2, 2, 8)])
def test_bfloat16_runs_in_every_shape(sizes):
    """One row, one query and one head are cases of their own for a compiler."""
    b, t, s, h, k, d = sizes
    rng = np.random.default_rng(0)
    query, key, value = (
        rng.normal(size=shape).astype(jnp.bfloat16)
        for shape in ((b, t, h, d), (b, s, k, d), (b, s, k, d))
    )
    visible = np.ones((1, t, s), bool)
    for compiled in (attend, jax.jit(attention.attend)):
        out = np.asarray(compiled(query, key, value, visible), np.float32)
        wide = attend(*(x.astype(np.float32) for x in (query, key, value)), visible)
        np.testing.assert_allclose(out, wide, atol=0.03)
