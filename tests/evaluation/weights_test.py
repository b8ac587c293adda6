import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.evaluation import weights

weight_change = jax.jit(weights.weight_change)  # faster than its operations one by one
over_runs_vmapped = jax.jit(
    jax.vmap(
        functools.partial(weights.weight_change, sparsity_threshold=1e-3), in_axes=(None, 0, None)
    )
)
SHAPES = {"a": {"kernel": (9, 6), "bias": (6,)}, "b": {"kernel": (6, 3), "bias": (3,)}}

TALL_AND_WIDE = [(20, 12), (12, 20)]


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(
        lambda shape: (scale * rng.normal(size=shape)).astype(np.float32),
        SHAPES,
        is_leaf=is_shape,
    )


def add(x, y):
    return jax.tree.map(np.add, x, y)


def kernels_only(change):  # the biases stay
    return {k: {"kernel": v["kernel"], "bias": np.zeros_like(v["bias"])} for k, v in change.items()}


@pytest.fixture
def base():
    return tree(0)


@pytest.fixture
def fisher():
    return jax.tree.map(np.square, tree(2))


def test_matches_numpy_in_float64(base, fisher):
    params = add(base, tree(1, 0.1))
    flat = lambda t: np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]).astype(np.float64)  # noqa: E731
    change = flat(params) - flat(base)
    matrices = [
        np.asarray(params[k]["kernel"], np.float64) - np.asarray(base[k]["kernel"], np.float64)
        for k in SHAPES
    ]
    got = weight_change(base, params, fisher, sparsity_threshold=0.05)
    expected = {
        "l1": np.abs(change).sum(),
        "l2": np.linalg.norm(change),
        "fisher_l2": np.sqrt((flat(fisher) * change**2).sum()),
        "spectral_norm": max(np.linalg.norm(m, ord=2) for m in matrices),
        "rank": 1.0,
        "sparsity": np.mean(
            np.abs(change) <= 0.05 * np.maximum(np.abs(flat(base)), np.abs(flat(params)))
        ),
    }
    assert set(got) == {*expected, "sparsity_bf16"}
    assert 0.1 < expected["sparsity"] < 0.9
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-6, err_msg=name)


def test_no_change_is_zero_everywhere_and_fully_sparse(base, fisher):
    got = weight_change(base, base, fisher, sparsity_threshold=0.0)
    ones = {"sparsity", "sparsity_bf16"}
    assert {name: float(value) for name, value in got.items()} == {
        name: 1.0 if name in ones else 0.0 for name in got
    }


@pytest.mark.parametrize("shape", TALL_AND_WIDE)
@pytest.mark.parametrize("rank", [1, 4, 12])
def test_rank_is_that_of_numpy(shape, rank):
    rng = np.random.default_rng(rank)
    m = (rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))).astype(np.float32)
    zeros = {"w": np.zeros(shape, np.float32)}
    got = weight_change(zeros, {"w": m}, zeros, sparsity_threshold=0.0)
    np.testing.assert_allclose(got["rank"], np.linalg.matrix_rank(m) / 12, rtol=1e-6)
    np.testing.assert_allclose(got["rank"], rank / 12, rtol=1e-6)


@pytest.mark.parametrize("shape", TALL_AND_WIDE)
@pytest.mark.parametrize("factor", [0.8, 2.0])
def test_the_tolerance_of_rank_is_that_of_numpy(shape, factor):
    m = 100 * np.eye(*shape, dtype=np.float32)
    m[0, 0] *= factor * 20 * np.finfo(np.float32).eps
    zeros = {"w": np.zeros(shape, np.float32)}
    got = weight_change(zeros, {"w": m}, zeros, sparsity_threshold=0.0)["rank"]
    assert got == np.float32(np.linalg.matrix_rank(m) / 12)
    assert got == np.float32(11 / 12 if factor < 1 else 1.0)


def test_rank_averages_over_the_matrices_and_ignores_scale():
    zeros = {"a": np.zeros((4, 4)), "b": np.zeros((8, 2)), "bias": np.zeros(2)}
    change = {
        "a": 1e-6 * np.diag([1.0, 1.0, 1.0, 0.0]),
        "b": np.ones((8, 2)),
        "bias": np.ones(2),
    }
    got = weight_change(zeros, change, zeros, sparsity_threshold=0.0)
    np.testing.assert_allclose(got["rank"], (3 / 4 + 1 / 2) / 2, rtol=1e-6)
    np.testing.assert_allclose(got["spectral_norm"], 4.0, rtol=1e-6)


def test_spectral_norm_ignores_biases_but_l2_does_not(base, fisher):
    change = tree(1)
    with_bias = weight_change(base, add(base, change), fisher, sparsity_threshold=0.0)
    without = weight_change(base, add(base, kernels_only(change)), fisher, sparsity_threshold=0.0)
    assert with_bias["spectral_norm"] == without["spectral_norm"]
    assert with_bias["rank"] == without["rank"]
    assert with_bias["l2"] > without["l2"]
    np.testing.assert_allclose(without["sparsity"], 9 / 81, rtol=1e-6)


def test_a_fisher_of_ones_gives_the_plain_l2(base):
    ones = jax.tree.map(np.ones_like, base)
    got = weight_change(base, tree(1), ones, sparsity_threshold=0.0)
    assert got["fisher_l2"] == got["l2"]


@pytest.mark.parametrize(("update", "hidden"), [(1e-4, 0.9), (3e-3, 0.2), (1e-2, 0.0)])
def test_storage_in_bfloat16_hides_small_updates(base, fisher, update, hidden):
    """The update is relative to each weight: dense in float32, partly gone in bfloat16."""
    params = jax.tree.map(lambda w: w * np.float32(1 + update), base)
    got = weight_change(base, params, fisher, sparsity_threshold=0.0)
    assert got["sparsity"] < 0.05
    as_bfloat16 = [
        np.sum(a.astype(jnp.bfloat16) == b.astype(jnp.bfloat16))
        for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(params), strict=True)
    ]
    np.testing.assert_allclose(got["sparsity_bf16"], sum(as_bfloat16) / 81, rtol=1e-6)
    assert hidden <= got["sparsity_bf16"] < hidden + 0.4


def test_bfloat16_weights_pass_a_threshold_of_1e_3_only_when_equal():
    """All neighbours in one binade and across its edge, so that the docstring's 2^-8 is earned."""
    lower = np.arange(128, 256, dtype=np.float32) / 128  # every bfloat16 in [1, 2)
    zeros = {"w": np.zeros((1, 128))}
    below = {"w": lower[None]}
    above = {"w": lower[None] + 1 / 128}
    for threshold, expected in [(0.0, 0.0), (1e-3, 0.0), (2**-8 - 1e-6, 0.0), (2**-8, 1 / 128)]:
        got = weight_change(below, above, zeros, sparsity_threshold=threshold)
        assert got["sparsity_bf16"] == got["sparsity"] == expected


def test_sparsity_is_relative_to_the_larger_of_the_two():
    base = {"w": np.float32([[1.0, 1.25, 0.0, 0.0, 100.0]])}
    params = {"w": np.float32([[1.25, 1.0, 0.0, 1e-9, 101.0]])}
    got = weight_change(base, params, base, sparsity_threshold=0.2)
    np.testing.assert_allclose(got["sparsity"], 4 / 5, rtol=1e-6)
    assert weight_change(base, params, base, sparsity_threshold=0.0)["sparsity"] == np.float32(0.2)


def test_vmapped_and_mapped_equal_solo_and_trace_once(base, fisher):
    runs = [tree(seed, 10.0**-seed) for seed in range(1, 4)]
    runs[1] = base
    stacked = jax.tree.map(lambda *x: np.stack(x), *runs)

    def one(params):
        return weights.weight_change(base, params, fisher, sparsity_threshold=1e-3)

    solo = jax.tree.map(lambda *x: np.stack(x), *[jax.jit(one)(params) for params in runs])
    for over_runs in (jax.vmap, lambda f: functools.partial(jax.lax.map, f)):
        chex.clear_trace_counter()  # it knows functions by name and line
        traced = jax.jit(over_runs(chex.assert_max_traces(one, n=1)))
        chex.assert_trees_all_close(traced(stacked), solo, rtol=1e-5, atol=1e-7)
        traced(stacked)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("where", ["kernel", "bias"])
def test_a_diverged_run_is_nan_and_leaves_its_neighbours_alone(base, fisher, bad, where):
    good = tree(1)
    broken = jax.tree.map(np.copy, good)
    broken["a"][where][0] = bad
    stacked = jax.tree.map(lambda *x: np.stack(x), good, broken)
    got = over_runs_vmapped(base, stacked, fisher)
    solo = weight_change(base, good, fisher, sparsity_threshold=1e-3)
    for name, value in got.items():
        assert np.isnan(value[1]), name
        np.testing.assert_allclose(value[0], solo[name], rtol=1e-5, err_msg=name)


def test_mistakes_are_named(base, fisher):
    with pytest.raises(ValueError, match=r"shapes \[\(3,\)\] and no matrix"):
        weight_change(*[{"w": jnp.zeros(3)}] * 3, sparsity_threshold=0.0)
    with pytest.raises(AssertionError):
        weight_change(base, base, {**fisher, "a": fisher["b"]}, sparsity_threshold=0.0)
