import numpy as np
import pytest

from rlrazor.analysis.results import Results, load_results, main_variant
from rlrazor.analysis.shift_series import pairs, pass_curves, pass_ks, paths, shift_as_prior
from tests.oracles import synthetic_shift

SCORE = "shift/rule/accuracy"
FAKE = "shift/rule/fake_accuracy"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("series") / "results.jsonl"
    return load_results(synthetic_shift.write(path, extras=()))


def cell(results, arm, seed, step, column):
    rows = [
        i
        for i in range(len(results))
        if (results["arm"][i], results["seed"][i], results["step"][i]) == (arm, seed, step)
    ]
    return results[column][rows[0]]


def test_tries_by_hand(study):
    assert pass_ks(study, "new") == list(synthetic_shift.KS)
    base, *curves = pass_curves(study, "shift/rule")
    assert base.arm == ""
    assert [c.arm for c in curves] == list(study.arms)
    for i, k in enumerate(synthetic_shift.KS):
        start = [cell(study, "sft", s, 0, f"shift/rule/base_pass_at_{k}") for s in range(3)]
        assert base.y[i] == pytest.approx(np.mean(start))
        end = [cell(study, curves[0].arm, s, 200, f"shift/rule/pass_at_{k}") for s in range(3)]
        assert curves[0].y[i] == pytest.approx(np.mean(end))
        assert curves[0].low[i] < curves[0].y[i] < curves[0].high[i]


def test_paths_by_hand(study):
    found = {curve.arm: curve for curve in paths(study, "flops", SCORE)}
    assert set(found) == set(study.arms)
    for i, step in enumerate(range(0, 240, 40)):
        values = [cell(study, "sft", s, step, SCORE) for s in range(3)]
        assert found["sft"].y[i] == pytest.approx(np.mean(values))
        assert found["sft"].x[i] == cell(study, "sft", 0, step, "flops")


def test_a_step_that_a_seed_lacks_is_left_out_of_a_path(study):
    gone = (study["arm"] == "sft") & (study["seed"] == 2) & (study["step"] == 80)
    found = {c.arm: c for c in paths(study.select(~gone), "flops", SCORE)}
    assert len(found["sft"].y) == 5
    assert len(found["grpo"].y) == 6


def test_pairs_are_paired_over_seeds_and_count_what_they_leave_out(study):
    fake = study[FAKE].copy()
    fake[(study["arm"] == "grpo") & (study["seed"] == 1)] = np.nan
    rows = Results({**study.columns, FAKE: fake})
    found = {pair.arm: pair for pair in pairs(rows, FAKE, SCORE)}
    for arm, seeds in (("sft", (0, 1, 2)), ("grpo", (0, 2))):
        gaps = [cell(study, arm, s, 200, FAKE) - cell(study, arm, s, 200, SCORE) for s in seeds]
        assert found[arm].difference.estimate == pytest.approx(np.mean(gaps))
        assert found[arm].n_seeds == found[arm].n_runs == len(seeds)
        assert found[arm].n_excluded == 3 - len(seeds)


def test_columns_that_are_not_there_give_nothing(study):
    bare = Results({k: v for k, v in study.columns.items() if "pass_at" not in k})
    assert pass_ks(bare, "new") == []
    assert pass_curves(bare, "new") == []
    assert paths(bare, "no/such", SCORE) == []
    assert pairs(bare, SCORE, "no/such") == []
    empty = np.full(len(study), np.nan)
    nowhere = Results({**bare.columns, "new/pass_at_4": empty, FAKE: empty})
    assert pass_ks(nowhere, "new") == []
    assert pairs(nowhere, FAKE, SCORE) == []
    assert paths(nowhere, FAKE, SCORE) == []


def test_the_change_stands_in_for_forgetting(study):
    moved = shift_as_prior(main_variant(study), "shift/rule")
    np.testing.assert_allclose(moved["forgetting"], -main_variant(study)["shift/rule/change"])
