"""Forests, turns and curves: every number is drawn once and says what it is."""

import numpy as np
import pytest

from rlrazor.analysis import shift_curves, shift_figures
from rlrazor.analysis.figures import NARROW, WIDE
from rlrazor.analysis.hover import inline_svg, standalone_svg
from rlrazor.analysis.law import quadratic_law
from rlrazor.analysis.papers import TURN_GAINS
from rlrazor.analysis.results import Results, load_results, main_variant
from rlrazor.analysis.shift import early_stop, shifts, turn_budgets
from rlrazor.analysis.shift_series import pairs, pass_curves, paths, shift_as_prior
from rlrazor.analysis.style import Styles, arm_styles
from rlrazor.lines import KL
from tests.oracles import synthetic_shift

RULE, SFT = "shift/rule", ("sft",)
TASKS = ("new", RULE)
GAINS = TURN_GAINS["sft_memorizes_gp_l"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "results.jsonl"
    return load_results(synthetic_shift.write(path, methods=("sft", "self_sft", "grpo"), seeds=2))


def n_tips(figure):
    return sum(len(tips) for tips in figure.tips.values())


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_each_change_is_drawn_once_a_rule(study, width):
    main = main_variant(study)
    figure = shift_figures.shift_figure(
        shifts(main, RULE), arm_styles(study), RULE, early_stop(main, RULE, SFT), width=width
    )
    svg = inline_svg(figure, name="s", alt="")
    assert svg.count("data-tip=") == n_tips(figure) == 2 * 4
    assert "Best early SFT" in svg
    assert figure.get_size_inches()[0] == width
    marks = {line.get_gid(): line for axes in figure.axes for line in axes.lines if line.get_gid()}
    drawn = sorted(float(line.get_xdata()[0]) for line in marks.values())
    early = early_stop(main, RULE, SFT)
    wanted = [100 * e.change[t].estimate for e in shifts(main, RULE) for t in TASKS]
    wanted += [100 * float(np.mean(early.change[t])) for t in TASKS]
    np.testing.assert_allclose(drawn, sorted(wanted))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_turns_and_instructions(study, width):
    budgets = turn_budgets(study, RULE)
    turns = shift_figures.turns_figure(budgets, arm_styles(study), RULE, GAINS, width=width)
    assert standalone_svg(turns).count("<title>") == n_tips(turns) == 2 * 2 * 4 + 4
    judged = pairs(study, "shift/rule/fake_accuracy", "shift/rule/accuracy")
    told = shift_figures.instruction_figure(judged, arm_styles(study), RULE, width=width)
    assert standalone_svg(told).count("<title>") == n_tips(told) == 2 * len(judged)
    both = {t: pairs(study, f"{t}/released_accuracy", f"{t}/accuracy") for t in TASKS}
    verifier = shift_figures.difference_figure(both, arm_styles(study), "points", width=width)
    assert standalone_svg(verifier).count("<title>") == 2 * len(study.arms)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_curves_have_a_mark_a_point_and_the_base_in_every_panel(study, width):
    main = main_variant(study)
    tries = {t: pass_curves(main, t) for t in TASKS}
    figure = shift_curves.tries_figure(tries, arm_styles(study), width=width)
    assert standalone_svg(figure).count("<title>") == n_tips(figure) == 2 * 7 * (3 + 3)
    costs = {t: paths(main, "flops", f"{t}/accuracy") for t in TASKS}
    figure = shift_curves.paths_figure(costs, arm_styles(study), "FLOPs", width=width)
    assert standalone_svg(figure).count("<title>") == n_tips(figure) == 2 * 6 * 3
    assert len([axes for axes in figure.axes if axes.get_title(loc="left")]) == (
        3 if width == WIDE else 2
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_both_axes_hold_every_checkpoint_of_every_variant(study, width):
    laws = tuple(quadratic_law(rows, resamples=20) for rows in (study, shift_as_prior(study, RULE)))
    figure = shift_curves.axes_figure(study, RULE, laws, width=width)
    svg = standalone_svg(figure)
    assert svg.count("<title>") == n_tips(figure) == 2 * len(study.trained())
    assert "other rule 0." in svg
    below = [line for line in figure.axes[1].lines if line.get_gid()]
    first = main_variant(study).trained().of_arms("grpo")
    np.testing.assert_allclose(below[0].get_xdata(), first[KL])
    np.testing.assert_allclose(below[0].get_ydata(), 100 * first["shift/rule/change"])
    curve = next(line for line in figure.axes[1].lines if "quadratic" in str(line.get_label()))
    np.testing.assert_allclose(curve.get_ydata(), -100 * laws[1].curve_y)


def test_nothing_to_draw_is_said(study):
    with pytest.raises(ValueError, match="no last checkpoint"):
        shift_figures.shift_figure([], Styles(), RULE)
    with pytest.raises(ValueError, match="several turns"):
        shift_figures.turns_figure([], Styles(), RULE, {})
    with pytest.raises(ValueError, match="both rules"):
        shift_figures.instruction_figure([], Styles(), RULE)
    for draw in (shift_curves.tries_figure, lambda c, s: shift_curves.paths_figure(c, s, "x")):
        with pytest.raises(ValueError, match="both measurements"):
            draw({"new": [], RULE: []}, Styles())
    dead = Results({**study.columns, "shift/rule/accuracy": np.full(len(study), np.nan)})
    with pytest.raises(ValueError, match="other rule"):
        shift_curves.axes_figure(dead, RULE)


def test_what_is_not_finite_is_not_drawn(study):
    ood = np.where(study["arm"] == "grpo", np.nan, study["shift/rule/accuracy"])
    holed = Results({**study.columns, "shift/rule/accuracy": ood})
    figure = shift_figures.shift_figure(shifts(main_variant(holed), RULE), arm_styles(study), RULE)
    assert standalone_svg(figure).count("<title>") == n_tips(figure) == 2 * 3 - 1
    turns = shift_figures.turns_figure(turn_budgets(holed, RULE), arm_styles(study), RULE, GAINS)
    assert standalone_svg(turns).count("<title>") == n_tips(turns)


def test_one_seed_is_drawn_without_intervals(study):
    alone = study.select(study["seed"] == 0)
    main = main_variant(alone)
    standalone_svg(
        shift_figures.shift_figure(
            shifts(main, RULE), arm_styles(main), RULE, early_stop(main, RULE, SFT)
        )
    )
    standalone_svg(
        shift_figures.turns_figure(turn_budgets(alone, RULE), arm_styles(alone), RULE, {})
    )
    standalone_svg(shift_curves.tries_figure({"new": pass_curves(main, "new")}, arm_styles(main)))
