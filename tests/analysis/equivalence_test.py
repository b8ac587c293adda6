"""Against closed testing by enumeration, SciPy's t tests, and McNemar's statistic."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rlrazor.analysis.equivalence import Mean, error_of, holm, mean_of


def closed_testing(p):
    """Adjusted p of each: the worst Bonferroni p of all sets of hypotheses that it belongs to."""
    out = []
    for i in range(len(p)):
        sets = [s for k in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), k)]
        out.append(max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s))
    return out


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_closed_testing(seed):
    p = np.random.default_rng(seed).uniform(0, 0.2, 6)
    p[1] = p[4]  # a tie
    np.testing.assert_allclose(holm(p), closed_testing(p), rtol=1e-12)


def test_holm_leaves_out_what_has_no_p():
    adjusted = holm([0.01, math.nan, 0.04])
    np.testing.assert_allclose(adjusted, [0.02, math.nan, 0.04])
    assert len(holm([])) == 0


def test_interval_and_p_are_those_of_a_t_test():
    values = np.array([0.3, -0.1, 0.25, 0.4, math.nan])
    mean = mean_of(values)
    known = values[:4]
    twin = stats.ttest_1samp(known, 0.0)
    interval = mean.interval()
    limits = twin.confidence_interval(0.95)
    np.testing.assert_allclose([interval.low, interval.high], [limits.low, limits.high])
    assert mean.p == pytest.approx(twin.pvalue)
    assert mean.n == interval.n == 4


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
def test_equivalence_is_two_one_sided_tests(margin):
    values = np.array([0.3, -0.1, 0.25, 0.4])
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    p = mean_of(values).p_equivalent(margin)
    assert p == pytest.approx(max(above, below))
    inside = mean_of(values).interval(0.90)
    assert (p < 0.05) == (-margin < inside.low and inside.high < margin)


def test_error_is_never_below_that_of_the_questions():
    # Two answers to the same questions: what they disagree on is McNemar's (b + c, b - c).
    gained, lost, n = 30, 10, 400
    each = np.concatenate([np.ones(gained), -np.ones(lost), np.zeros(n - gained - lost)])
    mcnemar = math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    assert error_of(each) == pytest.approx(mcnemar, rel=2e-3)  # n - 1 instead of n
    alike = np.full(3, each.mean())  # three units that happen to agree to the digit
    assert mean_of(alike).error == pytest.approx(0)
    floor = mean_of(alike, np.full(3, error_of(each)))
    assert floor.error == pytest.approx(error_of(each) / math.sqrt(3))
    wide = np.array([-1.0, 0.0, 1.0])
    assert mean_of(wide, np.full(3, 1e-3)).error == mean_of(wide).error


def test_few_units():
    assert math.isnan(mean_of(np.array([math.nan])).estimate)
    one = mean_of(np.array([0.2, math.nan]))
    assert (one.estimate, one.n) == (0.2, 1)
    assert not one.interval().known
    assert math.isnan(one.p)
    assert math.isnan(one.p_equivalent(1.0))
    assert Mean(0.0, 0.0, 3).p == 1.0
    assert Mean(0.1, 0.0, 3).p == 0.0
    assert Mean(0.1, 0.0, 3).p_equivalent(0.2) == 0.0
    assert math.isnan(error_of(None))


def test_coverage_of_the_floored_interval():
    """Of units that differ by noise alone: never too short, and right at least as often."""
    rng = np.random.default_rng(0)
    n, p, truth = 1000, 0.05, 0.0
    held, short = 0, 0
    for _ in range(400):
        each = rng.choice([-1.0, 0.0, 1.0], size=(3, n), p=[p, 1 - 2 * p, p])
        errors = np.array([error_of(row) for row in each])
        mean = mean_of(each.mean(axis=1), errors)
        held += mean.interval().low <= truth <= mean.interval().high
        short += mean.error < 0.9 * math.sqrt(2 * p / n / 3)
    assert held / 400 > 0.95
    assert short == 0
