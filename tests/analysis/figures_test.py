import html

import matplotlib
import numpy as np
import pytest

from rlrazor.analysis.figures import (
    NARROW,
    WIDE,
    bars,
    law_by_arm_figure,
    law_figure,
    number,
    predictor_figure,
    scatter_rows,
    sqrt_ticks,
    thin,
)
from rlrazor.analysis.hover import inline_svg, standalone_svg
from rlrazor.analysis.law import isotonic_law, quadratic_law, within_arms
from rlrazor.analysis.predictors import Predictor, PredictorRow, predictor_table
from rlrazor.analysis.results import Results, load_results
from rlrazor.analysis.statistics import Interval
from rlrazor.lines import KL
from tests.oracles import synthetic_results

ARMS = ("sft1", "grpo", "oracle")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "r.jsonl"
    return load_results(
        synthetic_results.write(path, arms=ARMS, seeds=2, learning_rates=(1e-5, 1e-3))
    )


def n_tips(figure):
    return sum(len(tips) for tips in figure.tips.values())


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_law_shows_every_checkpoint_once_and_both_curves(results, width):
    laws = quadratic_law(results, resamples=20), isotonic_law(results, resamples=20)
    figure = law_figure(results, *laws, width=width)
    svg = inline_svg(figure, name="law", alt="")
    assert svg.count("data-tip=") == n_tips(figure) == len(results)
    for law in laws:
        assert html.escape(f"{law.kind}, R² {number(law.r2)}") in svg
    assert figure.get_size_inches()[0] == width


def test_a_mark_stands_at_its_kl_and_forgetting_in_points(results):
    figure = law_figure(results, None)
    marks = {line.get_gid(): line for line in figure.axes[0].lines if line.get_gid()}
    for gid, arm in zip(figure.tips, results.arms, strict=True):
        mine = results.of_arms(arm)
        np.testing.assert_allclose(marks[gid].get_xdata(), mine[KL])
        np.testing.assert_allclose(marks[gid].get_ydata(), 100 * mine["forgetting"])
        assert all(run in tip for run, tip in zip(mine["run"], figure.tips[gid], strict=True))


def test_a_dollar_in_a_name_is_a_dollar(results):
    name = r"$\frac$ _a"
    renamed = Results({**results.columns, "label": np.full(len(results), name)})
    for figure in (law_figure(renamed, None), law_by_arm_figure(renamed, None)):
        assert name in standalone_svg(figure)


def test_a_law_without_fits_is_still_a_scatter(results):
    assert n_tips(law_figure(results, None)) == len(results)


def test_by_arm_has_one_titled_panel_an_arm(results):
    entries, _ = within_arms(results, resamples=20)
    figure = law_by_arm_figure(results, quadratic_law(results, resamples=20), entries)
    svg = inline_svg(figure, name="law", alt="")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "GRPO",
        "SFT-1",
        "Oracle SFT, sampled",
    ]
    assert svg.count("data-tip=") == len(results)
    assert all(html.escape(f"R² {number(entry.r2)}") in svg for entry in entries)


def test_predictors_stand_beside_the_papers_numbers(results):
    table = predictor_table(results, resamples=20)
    figure = predictor_figure(table)
    svg = inline_svg(figure, name="p", alt="")
    known = [row for row in table if row.pooled is not None]
    others = [(row.predictor.paper_r2, row.predictor.replication_r2) for row in known]
    marks = len(known) + sum(value is not None for pair in others for value in pair)
    assert svg.count("data-tip=") == n_tips(figure) == marks
    assert "R² 0.96, the paper" in svg


def test_a_predictor_with_a_very_negative_r2_stays_on_the_axes():
    row = PredictorRow(Predictor("x", "x"), Interval(-3.0, -9.0, 0.2, 3), None, None, 0.0, 9, 0, "")
    standalone_svg(predictor_figure([row]))  # refuses a mark that is not drawn
    with pytest.raises(ValueError, match="no predictor"):
        predictor_figure([])


def test_thinning_keeps_shares_ends_and_order():
    rng = np.random.default_rng(0)
    groups = np.array(["a"] * 900 + ["b"] * 90 + ["c"] * 10)
    x = rng.permutation(1000).astype(float)
    kept = thin(x, groups, 100)
    assert len(kept) <= 100
    assert np.all(np.diff(kept) > 0)
    counts = {g: int(np.sum(groups[kept] == g)) for g in "abc"}
    assert counts == {"a": 90, "b": 9, "c": 1}
    assert np.max(x[groups == "a"]) in x[kept]
    assert np.min(x[groups == "a"]) in x[kept]
    np.testing.assert_array_equal(thin(x, groups, 1000), np.arange(1000))


def test_the_limit_is_alive_and_rows_that_are_not_finite_are_left_out(results):
    assert len(scatter_rows(results, 12)) == 12
    kl = results[KL].copy()
    kl[:5] = np.nan
    broken = Results({**results.columns, KL: kl})
    assert n_tips(law_figure(broken, None)) == len(results) - 5
    with pytest.raises(ValueError, match="nothing to draw"):
        law_figure(Results({**results.columns, KL: np.full(len(kl), np.inf)}), None)


@pytest.mark.parametrize("top", [1e-6, 0.03, 1.0, 9.4, 300.0])
def test_ticks_of_the_root_axis_are_round_sparse_and_inside(top):
    ticks = sqrt_ticks(top)
    assert ticks[0] == 0
    assert 3 <= len(ticks) <= 9
    assert ticks[-1] <= top
    assert np.min(np.diff(np.sqrt(ticks))) >= np.sqrt(top) / 8 * 0.999


def test_numbers_show_their_interval_or_say_that_there_is_none():
    assert number(Interval(0.5, 0.4, 0.6, 5)) == "0.50 [0.40, 0.60]"
    assert number(Interval(0.05, np.nan, np.nan, 1), 100, 1) == "5.0 (no interval)"
    assert number(Interval(0.5, -1e6, 0.6, 2)) == "0.50 [< -10, 0.60]"
    assert number(Interval(-0.2, -0.4, 0.6, 2), 100, 1) == "-20.0 [-40.0, 60.0]"
    assert number(None) == number(Interval(np.nan, np.nan, np.nan, 0)) == "n/a"


def test_bars_and_squares_are_printed():
    assert (
        bars("R2 of KL(base||policy) against |x|, R21") == "R² of KL(base‖policy) against |x|, R21"
    )


def test_the_callers_matplotlib_settings_are_neither_used_nor_changed(results):
    with matplotlib.rc_context({"axes.facecolor": "red", "text.parse_math": True}):
        before = dict(matplotlib.rcParams)
        svg = standalone_svg(law_figure(results, None))
        assert dict(matplotlib.rcParams) == before
    assert "#ff0000" not in svg
    assert "matplotlib.pyplot" not in repr(type(law_figure(results, None).canvas))
