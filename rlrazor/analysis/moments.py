"""Second-degree least squares from sums per seed, so that a resample costs a 3 x 3 solve.

Rows enter once, as sums over each (cell, seed). A bootstrap that draws seed s w_s times fits the
same rows w_s times over, so its normal equations are the weighted sum of the seeds' own.
"""

import math
from dataclasses import dataclass

import numpy as np

DEGREE = 2  # the paper's polynomial


def polynomial_basis(x: np.ndarray) -> np.ndarray:
    """Polynomials in x f64[N], orthogonal over the rows and of mean square 1: f64[N, 3].

    Plain powers would make the normal equations ill-conditioned (a predictor may span 1e-6 to
    1e3). A column is zero where x has too few distinct values to carry it.
    """
    spread = np.std(x)
    z = (x - np.mean(x)) / (spread if spread > 1e-12 * np.max(np.abs(x), initial=0) else np.inf)
    q, r = np.linalg.qr(np.vander(z, DEGREE + 1, increasing=True))
    size = np.sqrt(len(x))
    return q * size * (np.abs(np.diag(r)) > 1e-9 * size)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows, for any leading axes: cells, seeds or resamples."""

    qq: np.ndarray  # f64[..., 3, 3]
    qy: np.ndarray  # f64[..., 3]
    y: np.ndarray  # f64[...]
    yy: np.ndarray  # f64[...]
    n: np.ndarray  # f64[...]

    @staticmethod
    def sums(
        q: np.ndarray,  # f64[N, 3] polynomial_basis
        y: np.ndarray,  # f64[N] centred, so that SST loses no digits
        cell: np.ndarray,  # i64[N]
        n_cells: int,
    ) -> "Moments":
        """Sums over the rows of each cell; every field gets a leading axis of n_cells."""

        def total(values):
            flat = values.reshape(len(values), math.prod(values.shape[1:]))  # also of no rows
            sums = [np.bincount(cell, column, n_cells) for column in flat.T]
            return np.stack(sums, -1).reshape(n_cells, *values.shape[1:])

        outer = q[:, :, None] * q[:, None, :]
        return Moments(
            total(outer), total(q * y[:, None]), total(y), total(y * y), total(np.ones_like(y))
        )

    def weighted(self, weights: np.ndarray) -> "Moments":
        """Sums over the first axis (seeds S) under weights f64[K, S]: leading axis K."""
        return Moments(
            *(np.tensordot(weights, field, axes=1) for field in vars(self).values()),
        )

    def fit(self) -> np.ndarray:
        """Least-squares coefficients f64[..., 3]."""
        # The ridge only decides directions that the rows leave open (zero columns).
        ridge = 1e-12 * np.maximum(self.n, 1)[..., None, None] * np.eye(DEGREE + 1)
        return np.linalg.solve(self.qq + ridge, self.qy[..., None])[..., 0]

    def sse(self, coefficients: np.ndarray) -> np.ndarray:
        """Squared error of the given curve f64[..., 3] on these rows: f64[...]."""
        cross = np.sum(coefficients * self.qy, -1)
        square = np.einsum("...i,...ij,...j->...", coefficients, self.qq, coefficients)
        return np.maximum(self.yy - 2 * cross + square, 0.0)

    def sst(self) -> np.ndarray:
        """Squared deviation of these rows from their own mean: f64[...]."""
        return np.maximum(self.yy - self.y**2 / np.maximum(self.n, 1), 0.0)


def r_squared(sse: np.ndarray, sst: np.ndarray) -> np.ndarray:
    """1 - SSE / SST, NaN where nothing varies."""
    sse, sst = np.asarray(sse), np.asarray(sst)
    return np.where(sst > 0, 1 - sse / np.where(sst > 0, sst, 1.0), np.nan)
