import math

import numpy as np
import pytest

from rlrazor.analysis.frontier import (
    automatic_target,
    compare_arms,
    envelope,
    frontiers,
    matched,
    target_list,
)
from rlrazor.analysis.results import Results, load_results
from tests.oracles import synthetic_results
from tests.oracles.tiny_results import of_runs

TINY = of_runs(
    ("sft1", 0, "a", [(0.84, 0.10), (0.88, 0.30)]),
    ("sft1", 0, "b", [(0.83, 0.05), (0.95, 0.50)]),  # its last step is a jump of 0.12
    ("sft1", 1, "a", [(0.84, 0.12), (0.88, 0.20)]),
    ("grpo", 0, "a", [(0.84, 0.02), (0.88, 0.06)]),
    ("grpo", 1, "a", [(0.84, 0.00), (0.88, 0.04)]),
    ("grpo", 1, "b", [(0.82, 0.00)]),
)


def test_envelope_is_the_best_among_the_at_least_as_accurate():
    rng = np.random.default_rng(0)
    new, prior = rng.uniform(size=(2, 50))
    at = np.append(np.linspace(0, 1.1, 40), new)  # also exactly at the points
    want = [max((p for n, p in zip(new, prior, strict=True) if n >= a), default=np.nan) for a in at]
    np.testing.assert_array_equal(envelope(new, prior, at), want)


def test_matched_by_hand():
    rl, sft = matched(TINY, 0.86)
    assert (sft.arm, rl.arm) == ("sft1", "grpo")
    # Seed 0's best run at 0.86 is a (0.30, against 0.50); seed 1 has 0.20.
    np.testing.assert_allclose(sft.best_by_base, [0.30, 0.20])
    assert sft.best.estimate == pytest.approx(0.25)
    # Half way between 0.84 and 0.88; run b jumps and is not interpolated.
    np.testing.assert_allclose(sft.typical_by_base, [0.20, 0.16])
    assert (sft.n_runs, sft.n_runs_reaching, sft.n_runs_jumped) == (3, 3, 1)
    np.testing.assert_allclose(rl.best_by_base, [0.06, 0.04])
    np.testing.assert_allclose(rl.typical_by_base, [0.04, 0.02])
    assert (rl.n_runs, rl.n_runs_reaching, rl.n_runs_jumped, rl.n_seeds) == (3, 2, 0, 2)
    wide = matched(TINY, 0.86, bracket=0.2)[1]
    b_at_target = 0.05 + 0.45 * 0.03 / 0.12
    np.testing.assert_allclose(wide.typical_by_base[0], (0.20 + b_at_target) / 2)
    assert wide.n_runs_jumped == 0


def test_before_the_first_checkpoint_comes_the_base():
    rl, sft = matched(TINY, 0.82)
    # a: half of the way from (0.8, 0) to (0.84, 0.10); b: two thirds of that to (0.83, 0.05).
    np.testing.assert_allclose(sft.typical_by_base, [(0.05 + 0.05 * 2 / 3) / 2, 0.06])
    np.testing.assert_allclose(rl.best_by_base, [0.02, 0.0])
    at_base = matched(TINY, 0.8)
    for entry in at_base:  # no training, no forgetting: the base is on every frontier
        np.testing.assert_allclose(entry.best_by_base, 0.0)
        np.testing.assert_allclose(entry.typical_by_base, 0.0)


def test_what_is_not_reached_has_no_number():
    rl, sft = matched(TINY, 0.92)
    np.testing.assert_array_equal(sft.best_by_base, [0.5, np.nan])
    assert sft.best.n == 1
    assert not sft.best.known
    assert rl.best.n == 0
    assert math.isnan(rl.best.estimate)
    assert rl.n_runs_reaching == 0


def test_frontier_by_hand():
    rl, sft = frontiers(TINY, np.array([0.8, 0.86, 0.95, 0.96]))
    np.testing.assert_allclose(sft.prior_accuracy, [0.7, 0.45, 0.2, np.nan])
    np.testing.assert_array_equal(sft.n_seeds, [2, 2, 1, 0])
    np.testing.assert_array_equal(np.isfinite(sft.low), [True, True, False, False])
    half = 12.706204736 * np.std([0.4, 0.5], ddof=1) / np.sqrt(2)  # t, one degree of freedom
    np.testing.assert_allclose([sft.low[1], sft.high[1]], [0.45 - half, 0.45 + half])
    np.testing.assert_allclose(rl.prior_accuracy, [0.7, 0.65, np.nan, np.nan])
    grid = frontiers(TINY)[0].new_accuracy
    assert (len(grid), grid[0], grid[-1]) == (101, 0.8, 0.95)


def test_automatic_target_is_what_most_arms_reach_from_every_base():
    # sft1 reaches 0.95 from seed 0 only, so 0.88 counts; grpo 0.88.
    assert automatic_target(TINY) == 0.88
    more = [
        (arm, s, "a", [(top, 0.1)]) for arm, top in (("dft", 0.9), ("dpo", 0.93)) for s in (0, 1)
    ]
    more.append(("dft", 1, "b", [(0.97, 0.2)]))  # what one base reaches, the other must too
    low = ("psft", 0, "a", [(0.79, 0.0)])  # never beats its base: not counted
    four = of_runs(*more, low, ("ppo", 0, "a", [(0.91, 0.1)]), ("sdft", 0, "a", [(0.85, 0.1)]))
    assert automatic_target(four, share=0.25) == 0.93
    assert automatic_target(four, share=0.5) == 0.91
    assert automatic_target(four) == 0.9
    assert automatic_target(four, share=1.0) == 0.85
    assert automatic_target(of_runs(low)) is None
    assert target_list(of_runs(low)) == []
    assert target_list(TINY) == [0.82, 0.84, 0.86, 0.88]


def test_compare_arms_pairs_seeds_and_adjusts(tmp_path):
    path = synthetic_results.write(tmp_path / "r.jsonl", arms=("sft1", "grpo", "simpo", "oracle"))
    results = load_results(path)
    entries = matched(results, 0.95)
    found = compare_arms(entries, "sft1")
    assert [c.arm for c in found] == ["grpo", "simpo", "oracle"]
    by_arm = {entry.arm: entry for entry in entries}
    for c in found:
        gap = by_arm[c.arm].best_by_base - by_arm["sft1"].best_by_base
        assert c.comparison.difference.estimate == pytest.approx(np.mean(gap))
        assert c.p_adjusted >= c.comparison.p
    assert [found[0].word, found[2].word] == ["less", "less"]
    assert {c.word for c in compare_arms(entries, "oracle")} == {"more"}
    typical = compare_arms(entries, "sft1", reading="typical")
    assert typical[0].comparison.difference.estimate == pytest.approx(
        np.mean(by_arm["grpo"].typical_by_base - by_arm["sft1"].typical_by_base)
    )
    one = compare_arms(matched(results.select(results["seed"] == 0), 0.95), "sft1")
    assert {c.word for c in one} == {"undecided"}
    with pytest.raises(ValueError, match="no arm 'dft'"):
        compare_arms(entries, "dft")
    with pytest.raises(ValueError, match="reading must be"):
        compare_arms(entries, "sft1", reading="worst")


def test_order_of_rows_and_other_arms_change_nothing():
    order = np.random.default_rng(0).permutation(len(TINY["run"]))
    for a, b in zip(matched(TINY, 0.86), matched(TINY.select(order), 0.86), strict=True):
        assert (a.best, a.typical, a.n_runs_jumped) == (b.best, b.typical, b.n_runs_jumped)
    alone = matched(TINY.of_arms("grpo"), 0.86)[0]
    assert alone.best == matched(TINY, 0.86)[0].best


def test_two_bases_of_a_seed_are_one_unit():
    def with_base(epochs, name):
        rows = of_runs(("sft1", 0, name, [(0.88, 0.1 * epochs)]), ("sft1", 1, name, [(0.88, 0.3)]))
        columns = dict(rows.columns)
        return columns | {"hyperparameters/base_epochs": np.full(2, float(epochs))}

    first, second = with_base(1, "a"), with_base(2, "b")
    both = Results({name: np.concatenate([first[name], second[name]]) for name in first})
    entry = matched(both, 0.85)[0]
    assert len(entry.best_by_base) == 4
    assert entry.best.n == 2  # seeds
    assert entry.best.estimate == pytest.approx(((0.1 + 0.2) / 2 + 0.3) / 2)


def test_non_finite_rows_are_counted_not_used():
    columns = dict(TINY.columns)
    columns["prior/accuracy"] = np.where(
        columns["run"] == "sft1-0-a", np.nan, columns["prior/accuracy"]
    )
    entry = matched(Results(columns), 0.86)[1]
    np.testing.assert_allclose(entry.best_by_base, [0.5, 0.2])
    assert entry.n_excluded == 2
    assert frontiers(Results(columns))[1].n_excluded == 2
    assert matched(TINY, 0.86)[0].n_excluded == 0
