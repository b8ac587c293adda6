"""Means over few units that know how sure they are: noise floors, equivalence, Holm's correction.

"No difference" is a claim like any other, and a missed significance is no evidence for it. Two
one-sided tests (TOST; Schuirmann 1987) say that a difference lies within a margin. Holm (1979)
keeps the chance of any false claim among several at the level of one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlrazor.analysis.statistics import LEVEL, Interval


@dataclass(frozen=True)
class Mean:
    """A mean over independent units, as bases or seeds, and its standard error."""

    estimate: float
    error: float  # standard error; NaN with fewer than two units
    n: int

    def interval(self, level: float = LEVEL) -> Interval:
        """Student's t with n - 1 degrees of freedom; NaN limits with fewer than two units."""
        half = self.error * float(stats.t.ppf((1 + level) / 2, max(self.n - 1, 1)))
        return Interval(self.estimate, self.estimate - half, self.estimate + half, self.n, level)

    @property
    def p(self) -> float:
        """Of a two-sided t test against 0; NaN with fewer than two units."""
        if not self.error > 0:
            return math.nan if math.isnan(self.error) else float(self.estimate == 0)
        return float(2 * stats.t.sf(abs(self.estimate) / self.error, self.n - 1))

    def p_equivalent(self, margin: float) -> float:
        """Of both one-sided t tests that |mean| < margin: under 5 % where the 90 % interval is."""
        if not self.error > 0:
            inside = abs(self.estimate) < margin
            return math.nan if math.isnan(self.error) else float(not inside)
        return float(stats.t.sf((margin - abs(self.estimate)) / self.error, self.n - 1))


def mean_of(
    values: np.ndarray,  # f64[U] one a unit, NaN where there is none
    errors: np.ndarray | None = None,  # f64[U] standard error within each unit, NaN: not known
) -> Mean:
    """The mean over units, whose error is never below what the units' own errors allow.

    Between units the spread holds the noise within them; of three or four units it comes out too
    small by chance often enough to be quoted. The floor is the error of the mean if all spread
    were noise within: for right and wrong answers, that of McNemar's test.
    """
    values = np.asarray(values, float)
    known = np.isfinite(values)
    n = int(known.sum())
    if n == 0:
        return Mean(math.nan, math.nan, 0)
    estimate = float(np.mean(values[known]))
    if n == 1:
        return Mean(estimate, math.nan, 1)
    between = float(np.std(values[known], ddof=1)) / math.sqrt(n)
    within = 0.0
    if errors is not None and np.isfinite(errors[known]).all():
        within = math.sqrt(float(np.sum(np.square(errors[known])))) / n
    return Mean(estimate, max(between, within), n)


def error_of(values: np.ndarray | None) -> float:
    """Standard error of the mean of one number a question f64[n]; NaN where there are none."""
    if values is None or len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values adjusted for all in the list, NaN kept and not counted."""
    p = np.array(p, float)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    worst = 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - place) * p[index]))
        p[index] = worst
    return p
