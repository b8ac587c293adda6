"""How often a nominal 95 % interval of R2 holds the true value, by simulation.

The world of the simulation is the one that the bootstrap is for: forgetting = slope x KL + noise,
where the slope varies by a quarter between seeds. A study draws its seeds, fits the quadratic and
makes its interval; the truth is the R2 of infinitely many seeds. `statistics.COVERAGE` holds what
`simulate` measured; Student's t interval of a mean is exact where seeds vary normally.
"""

import numpy as np

from rlrazor.analysis.moments import Moments, polynomial_basis, r_squared
from rlrazor.analysis.statistics import R2_SCALE, Kind, cluster_bootstrap

SLOPE_SPREAD = 0.25  # between seeds, of the mean slope
CHECKPOINTS = 40  # a seed
NOISE = 0.25  # of forgetting, and of the rival's reading of KL; of the mean slope times one nat


def simulate(n_seeds: int, kind: Kind, *, studies: int, resamples: int = 500) -> float:
    """Share of the studies whose interval holds the truth; error about 0.5 / sqrt(studies)."""
    draw = np.random.default_rng([n_seeds, studies])
    truth = float(_statistic(kind, _study(draw, 20_000))(np.ones((1, 20_000)))[0])
    scale = R2_SCALE if kind == "r2" else None
    held = []
    for _ in range(studies):
        statistic = _statistic(kind, _study(draw, n_seeds))
        found = cluster_bootstrap(statistic, n_seeds, kind=kind, resamples=resamples, scale=scale)
        held.append(found.low <= truth <= found.high)
    return float(np.mean(held))


def _study(draw: np.random.Generator, n_seeds: int) -> tuple[Moments, Moments]:
    """Sums of forgetting against KL, and against a rival that reads KL with noise."""
    kl = draw.uniform(0, 2, (n_seeds, CHECKPOINTS))
    slope = 1 + SLOPE_SPREAD * draw.standard_normal((n_seeds, 1))
    lost = (slope * kl + NOISE * draw.standard_normal(kl.shape)).ravel()
    rival = (kl + NOISE * draw.standard_normal(kl.shape)).ravel()
    seed = np.repeat(np.arange(n_seeds), CHECKPOINTS)
    first, second = (
        Moments.sums(polynomial_basis(x), lost - np.mean(lost), seed, n_seeds)
        for x in (kl.ravel(), rival)
    )
    return first, second


def _statistic(kind: Kind, moments: tuple[Moments, Moments]):
    def fitted(weights: np.ndarray, which: Moments) -> np.ndarray:
        sums = which.weighted(weights)
        return r_squared(sums.sse(sums.fit()), sums.sst())

    if kind == "r2":
        return lambda weights: fitted(weights, moments[0])
    return lambda weights: fitted(weights, moments[0]) - fitted(weights, moments[1])
