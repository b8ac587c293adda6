import math

import numpy as np
import pytest

from rlrazor.analysis.flips import flip_map, typical_curve
from rlrazor.analysis.results import Results, load_results
from tests.oracles import synthetic_results

NORM, SFT = ("grpo", "grpo_std"), ("sft1", "sft2")

ARMS = ("sft1", "sft2", "grpo", "grpo_std")


def make(tmp_path, **options):
    return load_results(synthetic_results.write(tmp_path / "r.jsonl", **{"arms": ARMS} | options))


def words(found, axis=0):
    out = {}
    for cell in found.cells:
        out.setdefault(cell.values[axis], set()).add(cell.word)
    return out


def test_map_finds_the_flip_that_was_put_in(tmp_path):
    found = flip_map(make(tmp_path, std_rate=2.0, learning_rates=(3e-4, 1e-3)), NORM, SFT)
    assert found.axes == (
        "hyperparameters/advantage_norm",
        "hyperparameters/learning_rate",
        "hyperparameters/base_epochs",
    )
    assert [cell.values for cell in found.cells] == [
        ("none", 3e-4, 5.0),
        ("none", 1e-3, 5.0),
        ("std", 3e-4, 5.0),
        ("std", 1e-3, 5.0),
    ]
    assert words(found) == {"none": {"RL less"}, "std": {"RL more"}}
    for cell in found.cells:
        assert cell.n_runs == 10
        assert cell.over_frontier.n == 5
        assert cell.over_typical.estimate <= cell.over_frontier.estimate  # frontier: SFT's best


def test_excess_by_hand_and_against_a_slow_loop(tmp_path):
    results = make(tmp_path, base_epochs=(2, 10), seeds=3)
    found = flip_map(results, NORM, SFT, axes=("arm", "hyperparameters/base_epochs"))
    for cell in found.cells:
        arm, epochs = cell.values
        by_seed = []
        for seed in range(3):
            same = (results["seed"] == seed) & (results["hyperparameters/base_epochs"] == epochs)
            yard = results.select(same & np.isin(results["arm"], ("sft1", "sft2")))
            runs = results.select(same & (results["arm"] == arm) & results["final"])
            excess = []
            for new, lost in zip(runs["new/accuracy"], runs["forgetting"], strict=True):
                least = [
                    f
                    for n, f in zip(yard["new/accuracy"], yard["forgetting"], strict=True)
                    if n >= new
                ]
                least += [0.0] * bool(yard["new/base_accuracy"][0] >= new)
                if least:
                    excess.append(lost - min(least))
            by_seed.append(np.mean(excess))
        assert cell.over_frontier.estimate == pytest.approx(np.mean(by_seed))


def test_typical_curve_is_the_monotone_mean():
    curve = typical_curve(np.array([0.8, 0.8, 0.9, 1.0]), np.array([0.1, 0.3, 0.1, 0.5]))
    # 0.8 has mean 0.2 of two, 0.9 has 0.1: pooled to 1/6.
    np.testing.assert_allclose(curve(np.array([0.8, 0.9, 0.95, 1.0])), [1 / 6, 1 / 6, 1 / 3, 0.5])
    assert np.isnan(curve(np.array([1.01])))[0]


def test_word_needs_both_yardsticks(tmp_path):
    """RL between SFT's best and SFT's average."""
    results = make(tmp_path, arms=("sft1", "oracle", "grpo"), learning_rates=(1e-3,), noise=0.002)
    found = flip_map(results, ("grpo",), ("sft1", "oracle"), axes=("arm",))
    (cell,) = found.cells
    assert cell.over_frontier.low > 0
    assert cell.over_typical.high < 0
    assert cell.p_adjusted == 1.0  # the yardsticks disagree
    assert cell.word == "undecided"


def test_beyond_sfts_reach_is_counted_not_compared(tmp_path):
    results = make(tmp_path)
    columns = dict(results.columns)
    far = (columns["arm"] == "grpo") & (columns["hyperparameters/learning_rate"] == 1e-3)
    columns["new/accuracy"] = np.where(far, 0.999, columns["new/accuracy"])
    found = flip_map(Results(columns), NORM, SFT, axes=("arm", "hyperparameters/learning_rate"))
    cell = next(c for c in found.cells if c.values == ("grpo", 1e-3))
    assert cell.n_beyond_reach == cell.n_runs == 10
    assert math.isnan(cell.over_frontier.estimate)
    assert cell.word == "undecided"


def test_runs_that_cannot_be_placed_are_counted(tmp_path):
    results = make(tmp_path, seeds=3)
    columns = dict(results.columns)
    grpo = columns["arm"] == "grpo"
    unfinished = columns["run"] == columns["run"][grpo][0]
    columns["final"] = columns["final"] & ~unfinished
    std = (columns["arm"] == "grpo_std") & columns["final"]
    columns["prior/accuracy"] = columns["prior/accuracy"].copy()
    columns["prior/accuracy"][np.flatnonzero(std)[0]] = np.nan
    columns["prior/accuracy"][np.flatnonzero(grpo & ~columns["final"])[-1]] = np.nan  # not used
    kept = Results(columns).select(
        (columns["seed"] != 2) | ~np.isin(columns["arm"], ("sft1", "sft2"))
    )
    found = flip_map(kept, NORM, SFT, axes=("arm",))
    assert found.n_runs_unfinished == 1
    assert found.n_excluded == 1
    assert found.n_runs_without_sft == 16  # both arms' runs of seed 2
    assert [cell.n_runs for cell in found.cells] == [23, 23]
    assert [cell.over_frontier.n for cell in found.cells] == [2, 2]
    assert [cell.n_beyond_reach for cell in found.cells] == [0, 0]


def test_one_seed_decides_nothing_and_absent_axes_are_dropped(tmp_path):
    results = make(tmp_path, seeds=1, std_rate=2.0)
    found = flip_map(results, NORM, SFT)
    assert {cell.word for cell in found.cells} == {"undecided"}
    assert not any(cell.over_frontier.known for cell in found.cells)
    assert all(math.isnan(cell.p_adjusted) for cell in found.cells)
    bare = {n: v for n, v in results.columns.items() if not n.startswith("hyperparameters/")}
    whole = flip_map(Results(bare), NORM, SFT)
    assert whole.axes == ()
    assert [cell.values for cell in whole.cells] == [()]
    assert flip_map(results, ("absent",), SFT).cells == ()
    alone = flip_map(results, NORM, ("absent",))
    assert alone.n_runs_without_sft == sum(cell.n_runs for cell in alone.cells) == 16


def test_missing_values_get_their_own_cell_and_rows_may_come_in_any_order(tmp_path):
    results = make(tmp_path, arms=("sft1", "grpo", "reinforce"))
    found = flip_map(results, ("grpo", "reinforce"), SFT, axes=("hyperparameters/advantage_norm",))
    assert [cell.values for cell in found.cells] == [("none",), (None,)]
    numbers = make(tmp_path, arms=("sft1", "grpo", "grpo_kl"))
    found_kl = flip_map(numbers, ("grpo", "grpo_kl"), SFT, axes=("hyperparameters/kl_coefficient",))
    assert [(c.values, c.n_runs) for c in found_kl.cells] == [((0.1,), 40), ((None,), 40)]
    results = make(tmp_path, arms=("sft1", "grpo", "reinforce"))
    shuffled = results.select(np.random.default_rng(0).permutation(len(results)))
    again = flip_map(shuffled, ("grpo", "reinforce"), SFT, axes=("hyperparameters/advantage_norm",))
    for a, b in zip(found.cells, again.cells, strict=True):
        assert a.over_frontier.low == pytest.approx(b.over_frontier.low)
        assert a.word == b.word


def test_luck_of_the_frontier_is_not_taken_for_forgetting(tmp_path):
    """sft2 pays less KL than sft1: "RL more" is false, yet the frontier alone often says so."""
    cells = []
    for rng_seed in range(8):
        results = make(tmp_path, arms=("sft1", "sft2"), rng_seed=rng_seed, noise=0.03)
        cells += flip_map(results, ("sft2",), ("sft1",)).cells
    assert np.mean([cell.over_frontier.low > 0 for cell in cells]) > 0.1
    assert np.mean([cell.word == "RL more" for cell in cells]) == 0
