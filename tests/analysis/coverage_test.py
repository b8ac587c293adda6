"""What an interval says of itself is what a simulation finds."""

import math

import pytest

from rlrazor.analysis.coverage import simulate
from rlrazor.analysis.statistics import COVERAGE, Interval, t_interval


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_the_table_is_what_the_simulation_measures(n_seeds):
    found = simulate(n_seeds, "r2", studies=400, resamples=200)
    assert found == pytest.approx(COVERAGE["r2"][n_seeds], abs=0.05)
    assert found < 0.93  # not what "95 %" promises


def test_an_interval_knows_its_coverage():
    assert t_interval([0.1, 0.2, 0.3]).coverage == 0.95
    assert Interval(0.5, 0.4, 0.6, 3, kind="r2").coverage == COVERAGE["r2"][3]
    between = Interval(0.5, 0.4, 0.6, 7, kind="r2").coverage
    assert between == pytest.approx((COVERAGE["r2"][6] + COVERAGE["r2"][8]) / 2)
    assert Interval(0.5, 0.4, 0.6, 99, kind="r2").coverage == COVERAGE["r2"][20]
    assert Interval(0.5, math.nan, math.nan, 1, kind="r2").coverage == 0.95  # nothing to cover
    assert Interval(0.5, 0.4, 0.6, 3, level=0.99, kind="r2").coverage == 0.99
