import numpy as np
import pytest

from rlrazor.analysis.moments import Moments, polynomial_basis, r_squared

RNG = np.random.default_rng(0)


def polyfit_sse(x, y):
    with np.errstate(all="ignore"):
        return np.sum((y - np.polynomial.Polynomial.fit(x, y, 2)(x)) ** 2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_fit_is_numpys_on_every_cell_and_resample(scale):
    x = scale * RNG.lognormal(size=90)
    y = np.sin(x / scale) + 0.1 * RNG.standard_normal(90)
    seed = np.repeat(np.arange(3), 30)
    centred = y - y.mean()
    sums = Moments.sums(polynomial_basis(x), centred, seed, 3)
    for s in range(3):
        alone = sums.weighted(np.eye(3)[s : s + 1])
        want = polyfit_sse(x[seed == s], y[seed == s])
        np.testing.assert_allclose(alone.sse(alone.fit())[0], want, rtol=1e-6)
    weights = np.array([[2.0, 0.0, 1.0]])
    drawn = np.concatenate([np.flatnonzero(seed == s) for s in (0, 0, 2)])
    resample = sums.weighted(weights)
    np.testing.assert_allclose(
        resample.sse(resample.fit())[0], polyfit_sse(x[drawn], y[drawn]), rtol=1e-6
    )
    np.testing.assert_allclose(resample.sst()[0], 60 * np.var(y[drawn]) * 1.5, rtol=1e-9)


def test_basis_is_orthogonal_and_drops_what_x_cannot_carry():
    q = polynomial_basis(RNG.lognormal(size=50))
    np.testing.assert_allclose(q.T @ q / 50, np.eye(3), atol=1e-12)
    two = polynomial_basis(np.array([0.0, 1.0, 0.0, 1.0, 1.0]))
    assert np.all(two[:, 2] == 0)
    assert np.any(two[:, 1] != 0)
    assert np.all(polynomial_basis(np.full(5, 0.3))[:, 1:] == 0)


def test_dropped_columns_leave_a_constant_or_a_line():
    y = np.array([1.0, 2.0, 4.0, 0.0, 3.0])
    for x, want in (
        (np.full(5, 0.3), np.sum((y - 2) ** 2)),
        (np.array([0.0, 1, 0, 1, 1]), 4.5 + 14 / 3),  # each group about its own mean
    ):
        sums = Moments.sums(polynomial_basis(x), y - 2, np.zeros(5, int), 1)
        assert sums.sse(sums.fit())[0] == pytest.approx(want)


def test_empty_cells_count_nothing_and_r2_is_undefined():
    sums = Moments.sums(polynomial_basis(RNG.normal(size=4)), np.zeros(4), np.zeros(4, int), 2)
    np.testing.assert_array_equal(sums.n, [4, 0])
    assert np.all(np.isnan(r_squared(sums.sse(sums.fit()), sums.sst())))
    assert r_squared(np.array(1.0), np.array(4.0)) == 0.75
