import math

import numpy as np
import pytest
from scipy import stats

from rlrazor.analysis.statistics import (
    R2_SCALE,
    Interval,
    adjust,
    cluster_bootstrap,
    compare_with_zero,
    paired,
    seed_means,
    t_interval,
)

VALUES = np.array([0.3, 0.1, 0.45, 0.2, 0.25])


def test_t_interval_is_scipys():
    got = t_interval(np.append(VALUES, np.nan))
    want = stats.ttest_1samp(VALUES, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(
        [got.estimate, got.low, got.high], [0.26, want.low, want.high], rtol=1e-12
    )
    assert got.n == 5
    narrow = t_interval(VALUES, level=0.5)
    assert narrow.high - narrow.low < got.high - got.low


def test_one_seed_has_no_interval_and_says_so():
    one = t_interval(np.array([0.3]))
    assert one.estimate == 0.3
    assert not one.known
    assert one.side(0.0) == 0
    assert one.text() == "0.30 (no interval), 1 seed"
    boot = cluster_bootstrap(lambda w: np.sum(w, -1) * 0 + 0.3, 1)
    assert not boot.known
    assert math.isnan(t_interval(np.array([])).estimate)
    assert t_interval(np.array([])).text() == "no estimate, 0 seeds"


def test_text_and_side():
    interval = Interval(0.094, 0.071, 0.115, 5)
    assert interval.text(scale=100, digits=1) == "9.4 [7.1, 11.5], 5 seeds"
    assert interval.limits(scale=100, digits=1, unit=" points") == "9.4 points [7.1, 11.5]"
    assert [interval.side(x) for x in (0.0, 0.1, 0.2)] == [1, 0, -1]


def test_seed_means_by_hand():
    names, means = seed_means(np.array([1.0, 2.0, np.nan, 5.0, np.nan]), np.array([7, 7, 7, 3, 9]))
    np.testing.assert_array_equal(names, [3, 7, 9])
    np.testing.assert_array_equal(means, [5.0, 1.5, np.nan])


def test_bootstrap_of_a_mean_is_the_t_interval():
    def mean(weights):
        return weights @ VALUES / np.sum(weights, -1)

    got = cluster_bootstrap(mean, 5, resamples=200_000)
    want = t_interval(VALUES)
    np.testing.assert_allclose(
        [got.estimate, got.low, got.high], [want.estimate, want.low, want.high], atol=2e-3
    )
    assert got.n == 5
    assert cluster_bootstrap(mean, 5) == cluster_bootstrap(mean, 5)  # no hidden randomness
    half = cluster_bootstrap(mean, 5, resamples=200_000, level=0.5)
    assert half.high == pytest.approx(t_interval(VALUES, level=0.5).high, abs=2e-3)


def test_bootstrap_draws_whole_seeds_with_replacement():
    seen = []

    def watch(weights):
        seen.append(weights)
        return weights[:, 0]

    cluster_bootstrap(watch, 4, resamples=500)
    np.testing.assert_array_equal(seen[0], np.ones((1, 4)))  # the estimate: every seed once
    draws = seen[1]
    assert draws.shape == (500, 4)
    assert np.all(draws.sum(-1) == 4)
    assert draws.max() > 1
    np.testing.assert_allclose(draws.mean(0), 1.0, atol=0.15)


def test_r2_scale_keeps_r2_below_one_and_inverts():
    to, back = R2_SCALE
    for r2 in (-3.0, 0.0, 0.5, 0.999):
        assert back(to(r2)) == pytest.approx(r2)
    got = cluster_bootstrap(lambda w: 0.95 + 0.02 * (w[:, 0] - 1), 3, scale=R2_SCALE)
    assert got.low < 0.95 < got.high < 1.0


def test_undefined_resamples_are_dropped_and_too_many_give_no_interval():
    def without(seed_zero_needed):
        return lambda w: np.where(
            w[:, 0] > 0 if seed_zero_needed else w[:, 0] == 1, w @ VALUES, np.nan
        )

    assert cluster_bootstrap(without(True), 5).known  # 33 % undefined
    assert not cluster_bootstrap(without(False), 5).known  # 59 % undefined


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    sets = 0.2 + 0.1 * rng.standard_normal((400, 5))
    hits = [t_interval(values).side(0.2) == 0 for values in sets]
    assert 0.92 <= np.mean(hits) <= 0.98

    def covers(values):
        got = cluster_bootstrap(lambda w: w @ values / np.sum(w, -1), 5, resamples=500)
        return got.side(0.2) == 0

    assert 0.92 <= np.mean([covers(values) for values in sets[:200]]) <= 0.985


def test_paired_is_scipys_and_pairs_within_seeds():
    a, b = VALUES, np.array([0.2, 0.15, 0.2, 0.1, 0.12])
    got = paired(a, b, np.arange(5))
    want = stats.ttest_rel(a, b)
    assert got.p == pytest.approx(want.pvalue)
    limits = want.confidence_interval(0.95)
    np.testing.assert_allclose(
        [got.difference.low, got.difference.high], [limits.low, limits.high], rtol=1e-9
    )
    assert got.effect_size == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1))
    # Two bases of one seed are one unit, and a unit that one side lacks is no pair.
    twice = paired(np.repeat(a, 2), np.repeat(b, 2), np.repeat(np.arange(5), 2))
    assert twice.p == pytest.approx(got.p)
    lacking = paired(np.append(a, 9.0), np.append(b, np.nan), np.arange(6))
    assert lacking.p == pytest.approx(got.p)
    assert paired(b, a, np.arange(5)).difference.estimate == -got.difference.estimate


def test_comparison_edges():
    one = compare_with_zero(np.array([0.3, np.nan]))
    assert math.isnan(one.p)
    assert math.isnan(one.effect_size)
    same = compare_with_zero(np.full(3, 0.1))
    assert (same.p, same.effect_size) == (0.0, math.inf)
    none = compare_with_zero(np.zeros(3))
    assert (none.p, none.effect_size) == (1.0, 0.0)


def test_adjust_by_hand_and_with_unknowns():
    got = adjust([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(got, [0.03, np.nan, 0.04, 0.04])  # p m / rank, made monotone
    assert adjust([0.01, 0.02], method="by")[0] > adjust([0.01, 0.02])[0]
    assert np.all(np.isnan(adjust([np.nan])))
    assert len(adjust([])) == 0
