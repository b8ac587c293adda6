import math

import numpy as np
import pytest

from rlrazor.analysis.results import Results, load_results, main_variant
from rlrazor.analysis.shift import (
    by_seed,
    early_stop,
    final_by_seed,
    shifts,
    turn_budgets,
    variant_rows,
)
from tests.oracles import synthetic_shift

RULE, SFT = "shift/rule", ("sft",)
SCORE = "shift/rule/accuracy"
CHANGE = "shift/rule/change"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("shift") / "results.jsonl"
    return load_results(synthetic_shift.write(path))


def changed(results, **columns):
    return Results({**results.columns, **{k.replace("__", "/"): v for k, v in columns.items()}})


def lasts(results, arm, column):
    """{seed: mean over runs} by a slow loop."""
    out = {}
    for i in range(len(results)):
        if results["arm"][i] == arm and results["final"][i] and np.isfinite(results[column][i]):
            out.setdefault(int(results["seed"][i]), []).append(float(results[column][i]))
    return {seed: sum(values) / len(values) for seed, values in out.items()}


def test_the_derived_change_and_the_variants(study):
    np.testing.assert_allclose(study[CHANGE], study[SCORE] - study["shift/rule/base_accuracy"])
    assert CHANGE in study
    bare = Results({k: v for k, v in study.columns.items() if not k.startswith("shift/rule/")})
    assert CHANGE not in bare
    assert set(main_variant(study).arms) == set(synthetic_shift.SMALL)
    assert set(study["variant"]) == {"main", *(v for _, v in synthetic_shift.EXTRAS)}
    np.testing.assert_array_equal(main_variant(study)["method"], main_variant(study)["arm"])


def test_last_checkpoints_by_hand(study):
    for entry in shifts(study, RULE):
        for task, change in (("new", "gain"), (RULE, CHANGE)):
            for interval, column in (
                (entry.success[task], f"{task}/accuracy"),
                (entry.change[task], change),
            ):
                values = list(lasts(study, entry.arm, column).values())
                assert interval.estimate == pytest.approx(sum(values) / len(values))
                half = 4.302652729749464 * np.std(values, ddof=1) / math.sqrt(3)  # t, 2 degrees
                assert interval.high - interval.estimate == pytest.approx(half)
        assert entry.n_runs == entry.n_seeds == 3
        assert entry.n_excluded == 0
        assert entry.since_start.estimate == pytest.approx(entry.change[RULE].estimate)


def test_the_mean_over_methods_needs_all_of_them_in_a_seed(study):
    arms = main_variant(study).rl
    by_hand = [
        sum(lasts(study, arm, CHANGE)[seed] for arm in arms) / len(arms) for seed in range(3)
    ]
    np.testing.assert_allclose(final_by_seed(study, arms, CHANGE), by_hand)
    ood = study[SCORE].copy()
    ood[(study["arm"] == "ppo") & (study["seed"] == 1)] = np.nan
    holed = final_by_seed(changed(study, shift__rule__accuracy=ood), arms, CHANGE)
    np.testing.assert_array_equal(np.isfinite(holed), [True, False, True])
    ood[study["arm"] == "ppo"] = np.nan  # measured nowhere: not one of them
    rest = final_by_seed(changed(study, shift__rule__accuracy=ood), arms, CHANGE)
    three = [a for a in arms if a != "ppo"]
    assert rest[0] == pytest.approx(np.mean([lasts(study, a, CHANGE)[0] for a in three]))
    assert np.isnan(final_by_seed(study, ("absent",), "gain")).all()
    assert np.isnan(by_seed(study, "no/such", study.seeds)).all()


def test_what_is_not_finite_is_counted(study):
    ood = study[SCORE].copy()
    ood[(study["arm"] == "sft") & (study["seed"] == 0)] = np.nan
    entries = {e.arm: e for e in shifts(changed(study, shift__rule__accuracy=ood), RULE)}
    assert entries["sft"].n_excluded == 1
    assert entries["sft"].change[RULE].n == 2
    assert entries["grpo"].n_excluded == 0


def test_the_best_early_checkpoint_by_hand(study):
    main = main_variant(study)
    early = early_stop(main, RULE, SFT)
    table = {}
    for i in range(len(main)):
        if main["arm"][i] == "sft" and main["step"][i] > 0:
            table.setdefault(int(main["step"][i]), {})[int(main["seed"][i])] = main[SCORE][i]
    means = {step: sum(row.values()) / 3 for step, row in table.items()}
    assert early.step == max(means, key=means.get)
    assert early.n_steps == 5
    np.testing.assert_allclose(early.success[RULE], [table[early.step][s] for s in range(3)])
    for seed in range(3):
        others = {step: sum(v for s, v in row.items() if s != seed) for step, row in table.items()}
        assert early.held_out[seed] == table[max(others, key=others.get)][seed]
    lacking = main[SCORE].copy()
    lacking[(main["arm"] == "sft") & (main["step"] == early.step) & (main["seed"] == 2)] = np.nan
    other = early_stop(changed(main, shift__rule__accuracy=lacking), RULE, SFT)
    assert other.step != early.step  # a mean over fewer seeds is another quantity
    assert other.n_steps == 4
    gone = np.where((main["arm"] == "sft") & (main["seed"] == 0), np.nan, main[SCORE])
    two = early_stop(changed(main, shift__rule__accuracy=gone), RULE, SFT)
    np.testing.assert_array_equal(two.seeds, [1, 2])
    np.testing.assert_allclose(two.success[RULE], [table[two.step][s] for s in (1, 2)])


def test_no_early_checkpoint_where_there_is_no_sft(study):
    assert early_stop(study.of_arms("grpo"), RULE, SFT) is None
    bare = Results({k: v for k, v in study.columns.items() if not k.startswith("shift/rule/")})
    assert early_stop(bare, RULE, SFT) is None
    alone = early_stop(study.select(study["seed"] == 0), RULE, SFT)
    assert np.isnan(alone.held_out).all()


def test_turn_budgets_by_hand(study):
    budgets = turn_budgets(study, RULE)
    assert [(b.method, b.turns) for b in budgets] == [("grpo", n) for n in (1, 3, 5, 10)]
    for b in budgets:
        arm = "grpo" if b.turns == 1 else f"grpo_turns_{b.turns}"
        first = lasts(study, arm, CHANGE)
        assert b.first[RULE].estimate == pytest.approx(sum(first.values()) / 3)
        own, base = (
            lasts(study, arm, f"shift/rule/{p}success_within_{b.turns}").values()
            for p in ("", "base_")
        )
        assert b.within[RULE].estimate == pytest.approx((sum(own) - sum(base)) / 3)
    assert turn_budgets(main_variant(study), RULE) == []


def test_rows_of_variants(study):
    rows = variant_rows(study, ("sft", "grpo"), ("main", "diverse"))
    assert set(rows.arms) == {"sft", "grpo", "sft_diverse", "grpo_diverse"}
