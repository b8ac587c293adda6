import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlrazor.evaluation import activations

# Faster to compile than their operations one by one.
activation_change = jax.jit(activations.activation_change, static_argnames="neighbours")
linear_cka = jax.jit(activations.linear_cka)
cknna = jax.jit(activations.cknna, static_argnames="neighbours")
N, D = 30, 6


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) + 0.3
    y = np.maximum(x @ rng.normal(size=(D, D)) + 0.5 * rng.normal(size=(N, D)), 0.0)
    y[3] = 0.0  # a dead input
    return x.astype(np.float32), y.astype(np.float32)


def slow_cka(x, y):
    """HSIC of centred Gram matrices, in float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    H = np.eye(len(x)) - 1 / len(x)
    hsic = lambda a, b: np.trace(a @ a.T @ H @ b @ b.T @ H)  # noqa: E731
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def slow_cknna(x, y, k):
    """Equations 16 to 18 of arXiv 2405.07987, one pair of inputs at a time, in float64."""
    kernels = []
    for z in (np.asarray(x, np.float64), np.asarray(y, np.float64)):
        z = [row / np.linalg.norm(row) if row.any() else row for row in z]
        kernels.append([[float(a @ b) for b in z] for a in z])
    n = len(kernels[0])

    def nearest(kernel, i):
        others = [j for j in range(n) if j != i]
        return set(sorted(others, key=lambda j: -kernel[i][j])[:k])  # stable: lowest index first

    def align(K, L):
        total = 0.0
        for i in range(n):
            for j in nearest(K, i) & nearest(L, i):
                total += (K[i][j] - np.mean(K[i])) * (L[i][j] - np.mean(L[i]))
        return total

    K, L = kernels
    return align(K, L) / np.sqrt(align(K, K) * align(L, L))


def test_norms_match_numpy(pair):
    base, policy = (np.asarray(z, np.float64) for z in pair)
    got = activation_change(*pair, neighbours=4)
    assert set(got) == {"activation_l1", "activation_l2", "cka", "cknna"}
    l1 = np.mean([np.abs(row).sum() for row in policy - base])
    l2 = np.mean([np.linalg.norm(row) for row in policy - base])
    np.testing.assert_allclose(got["activation_l1"], l1, rtol=1e-6)
    np.testing.assert_allclose(got["activation_l2"], l2, rtol=1e-6)
    np.testing.assert_allclose(got["cka"], linear_cka(*pair), rtol=1e-6)
    np.testing.assert_allclose(got["cknna"], cknna(*pair, neighbours=4), rtol=1e-6)


def test_cka_matches_the_gram_matrices(pair):
    expected = slow_cka(*pair)
    assert 0.2 < expected < 0.9
    np.testing.assert_allclose(linear_cka(*pair), expected, rtol=1e-5)
    np.testing.assert_allclose(
        linear_cka(pair[0], pair[1][:, :2]), slow_cka(pair[0], pair[1][:, :2]), rtol=1e-5
    )


@pytest.mark.parametrize("k", [1, 4, N - 1])
def test_cknna_matches_the_loop(pair, k):
    np.testing.assert_allclose(cknna(*pair, neighbours=k), slow_cknna(*pair, k), rtol=2e-5)


def test_neighbours_is_alive(pair):
    assert abs(cknna(*pair, neighbours=1) - cknna(*pair, neighbours=4)) > 0.01


def test_no_change(pair):
    for z in pair:
        got = activation_change(z, z, neighbours=4)
        assert got["activation_l1"] == got["activation_l2"] == 0.0
        np.testing.assert_allclose([got["cka"], got["cknna"]], 1.0, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-25, 1e25])
def test_similarities_are_invariant_to_rotation_and_scale(pair, scale):
    x, y = pair
    turned = (scale * (y @ stats.ortho_group.rvs(D, random_state=1))).astype(np.float32)
    np.testing.assert_allclose(linear_cka(x, turned), linear_cka(x, y), rtol=1e-5)
    np.testing.assert_allclose(linear_cka(y, turned), 1.0, rtol=1e-5)
    np.testing.assert_allclose(cknna(x, turned, neighbours=4), cknna(x, y, neighbours=4), rtol=1e-5)


def test_cka_ignores_a_shift_but_not_a_stretch(pair):
    x, y = pair
    np.testing.assert_allclose(linear_cka(x, y + 7.0), linear_cka(x, y), rtol=1e-5)
    assert linear_cka(x, x * np.float32([5, 1, 1, 1, 1, 1])) < 0.9


def test_cka_of_orthogonal_directions_is_zero():
    x = jnp.array([[1.0], [-1.0], [1.0], [-1.0]])
    y = jnp.array([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(x, y) == 0.0


def test_similarities_are_symmetric_bounded_and_blind_to_order(pair):
    x, y = pair
    order = np.random.default_rng(2).permutation(N)
    for similarity in (linear_cka, lambda a, b: cknna(a, b, neighbours=4)):
        value = similarity(x, y)
        assert 0.0 < value < 1.0
        np.testing.assert_allclose(similarity(y, x), value, rtol=1e-5)
    np.testing.assert_allclose(linear_cka(x[order], y[order]), linear_cka(x, y), rtol=1e-5)
    alive = np.delete(order, np.argmax(order == 3))  # the dead input's neighbours are ties
    np.testing.assert_allclose(
        cknna(x[alive], y[alive], neighbours=4),
        cknna(np.delete(x, 3, 0), np.delete(y, 3, 0), neighbours=4),
        rtol=1e-5,
    )


@pytest.mark.parametrize("collapsed", [0.0, 0.1, -1e15])
def test_collapsed_representations(pair, collapsed):
    """Two that do not vary are alike, one that does not is unlike anything that does."""
    flat = np.full((N, D), collapsed, np.float32)
    other = flat + np.float32(1.0)
    both = activation_change(flat, other, neighbours=4)
    assert both["cka"] == both["cknna"] == 1.0
    for got in (
        activation_change(flat, pair[0], neighbours=4),
        activation_change(pair[0], flat, neighbours=4),
    ):
        assert got["cka"] == got["cknna"] == 0.0
        assert all(np.isfinite(value) for value in got.values())


def test_a_collapse_to_one_direction_is_not_mistaken_for_order(pair):
    row = np.random.default_rng(3).uniform(size=40)
    flat = np.outer(np.linspace(0.1, 3.0, N), row).astype(np.float32)  # cosines are all 1
    assert cknna(flat, pair[0], neighbours=4) == 0.0


def test_not_a_number_stays_visible(pair):
    x, y = pair
    y[2, 1] = np.nan
    got = activation_change(x, y, neighbours=4)
    assert all(np.isnan(value) for value in got.values())


def test_vmapped_equals_solo_and_traces_once(pair):
    x, y = pair
    policies = np.stack([y, x, np.zeros_like(x)])
    one = lambda policy: activations.activation_change(x, policy, neighbours=4)  # noqa: E731
    traced = jax.jit(jax.vmap(chex.assert_max_traces(one, n=1)))
    many = traced(policies)
    traced(policies)
    solo = jax.tree.map(
        lambda *v: np.stack(v), *[activation_change(x, p, neighbours=4) for p in policies]
    )
    chex.assert_trees_all_close(many, solo, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("neighbours", [0, N])
def test_impossible_neighbours_are_named(pair, neighbours):
    with pytest.raises(ValueError, match=f"neighbours={neighbours} must be between 1 and"):
        activation_change(*pair, neighbours=neighbours)


def test_shapes_must_agree(pair):
    with pytest.raises(AssertionError):
        activation_change(pair[0], pair[1][:, :2], neighbours=4)
    with pytest.raises(AssertionError):
        cknna(pair[0], pair[1][:10], neighbours=4)
