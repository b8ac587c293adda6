import math
import re

import numpy as np
import pytest

from rlrazor.analysis.figures import NARROW, WIDE
from rlrazor.analysis.flips import FlipMap, flip_map
from rlrazor.analysis.frontier import automatic_target, frontiers, matched
from rlrazor.analysis.frontier_figures import (
    axis_label,
    flip_figure,
    frontier_figure,
    matched_figure,
    trajectory_figure,
)
from rlrazor.analysis.hover import inline_svg
from rlrazor.analysis.results import load_results
from rlrazor.analysis.style import Styles, arm_styles
from rlrazor.analysis.trajectory import COSINE, KL_CHANGE, Trajectory, step_correlations
from tests.oracles import synthetic_results

NORM = ("grpo", "grpo_std")

ARMS = ("sft1", "grpo", "grpo_std", "oracle")
BOTH = pytest.mark.parametrize("width", [WIDE, NARROW])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "r.jsonl"
    return load_results(
        synthetic_results.write(
            path, arms=ARMS, seeds=3, learning_rates=(1e-5, 1e-4, 1e-3), std_rate=2.0
        )
    )


def tips_of(figure):
    tips = [tip for group in figure.tips.values() for tip in group]
    assert inline_svg(figure, name="f", alt="").count("data-tip=") == len(tips)
    return tips


def test_frontiers_have_a_panel_a_family_and_tips_with_intervals(results):
    entries = frontiers(results)
    figure = frontier_figure(entries, arm_styles(results))
    tips = tips_of(figure)
    assert len(figure.axes) == 3
    for name in ("SFT-1", "GRPO", "GRPO, std-normalised", "Oracle SFT, sampled"):
        assert any(tip.startswith(f"{name}\n") for tip in tips)
    assert all("[" in tip and "3 seeds" in tip for tip in tips)


def test_a_frontier_ends_where_the_first_seed_does(results):
    entries = frontiers(results)
    shared = [np.max(e.new_accuracy[e.n_seeds == 3]) for e in entries]
    assert any(np.any((e.n_seeds > 0) & (e.n_seeds < 3)) for e in entries)
    drawn = [
        np.max(line.get_xdata())
        for axes in frontier_figure(entries, arm_styles(results)).axes
        for line in axes.lines
    ]
    assert max(drawn) == pytest.approx(max(shared))


def test_matched_shows_both_readings_of_every_method_best_first(results):
    target = automatic_target(results)
    assert target is not None
    entries = matched(results, target)
    figure = matched_figure(entries, arm_styles(results))
    tips = tips_of(figure)
    order = sorted((e for e in entries), key=lambda e: e.best.estimate)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == {"oracle": "Oracle SFT, sampled", "grpo": "GRPO"}[order[0].arm]
    assert sum("best run" in tip for tip in tips) == len(ARMS)
    assert sum("typical run" in tip for tip in tips) == sum(
        math.isfinite(e.typical.estimate) for e in entries
    )
    assert f"{100 * order[0].best.estimate:.1f} [" in tips[0]


@BOTH
def test_flips_are_told_by_symbol_and_number_not_by_colour_alone(results, width):
    flips = flip_map(results, NORM, ("sft1",))
    figure = flip_figure(flips, arm_styles(results), width=width)
    tips = tips_of(figure)
    assert len(tips) == len(flips.cells) == 6
    texts = [text.get_text() for text in figure.axes[0].texts]
    for cell in flips.cells:
        symbol = {"RL less": "▼", "RL more": "▲"}.get(cell.word, "?")
        if math.isfinite(cell.over_frontier.estimate):
            assert f"{symbol}\n{100 * cell.over_frontier.estimate:+.1f}" in texts
        else:
            assert "out of\nreach" in texts
    assert {"RL less", "RL more"} & {cell.word for cell in flips.cells}


@BOTH
def test_a_flip_tip_stands_on_the_tile_of_its_own_settings(results, width):
    figure = flip_figure(flip_map(results, NORM, ("sft1",)), arm_styles(results), width=width)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    columns = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    for tile in figure.axes[0].patches:
        (tip,) = figure.tips[tile.get_gid()]
        x, y = (round(v + 0.47) for v in tile.get_xy())
        rate, others = (columns[x], rows[y]) if width == WIDE else (rows[y], columns[x])
        assert f"learning rate {rate}\n" in tip
        assert re.split(" · |\n", others)[0] in tip


def test_flips_along_one_axis_and_with_none(results):
    flips = flip_map(results, NORM, ("sft1",), axes=("arm",))
    assert len(tips_of(flip_figure(flips, arm_styles(results)))) == 2
    with pytest.raises(ValueError, match="no RL run"):
        flip_figure(FlipMap(("arm",), (), 0, 0, 0), Styles())
    assert axis_label("hyperparameters/base_epochs", 5.0, Styles()) == "base epochs 5"
    assert axis_label("hyperparameters/base_epochs", None, Styles()) == "base epochs not given"
    assert axis_label("arm", "grpo", arm_styles(results)) == "GRPO"


def test_trajectory_has_one_mark_a_step_up_to_the_limit():
    n = 40
    rng = np.random.default_rng(0)
    columns = {
        "run": np.array(["r"] * n, object),
        "arm": np.array(["grpo"] * 30 + ["sft1"] * 10, object),
        "seed": np.zeros(n, int),
        "step": np.arange(n),
        COSINE: rng.uniform(-1, 1, n),
        KL_CHANGE: rng.standard_normal(n),
    }
    trajectory = Trajectory(columns, 0)
    correlations = step_correlations(trajectory)
    figure = trajectory_figure(trajectory, Styles(), correlations)
    tips = tips_of(figure)
    assert len(tips) == n
    assert any(f"step {n - 1}\n" in tip for tip in tips)
    assert len(tips_of(trajectory_figure(trajectory, Styles(), limit=20))) <= 20
