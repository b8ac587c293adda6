import math
import re

import numpy as np
import pytest

from rlrazor.analysis import shift_claims
from rlrazor.analysis.claims import FAILS, HOLDS, UNDECIDED
from rlrazor.analysis.results import Results, load_results, main_variant
from rlrazor.analysis.shift import final_by_seed
from rlrazor.analysis.verdicts import left_out, verdicts
from tests.oracles import synthetic_shift

SHIFT = (
    "rl_gains",
    "sft_loses",
    "rl_beats_sft",
    "rl_beats_early_sft",
    "more_turns",
    "diverse_sft",
    "rl_sharpens",
    "rl_forgets_less_at_end",
    "kl_shift",
    "sft_ignores",
)
RL = ("grpo", "grpo_std", "reinforce", "ppo")
RULE = "shift/rule"
SCORE = "shift/rule/accuracy"
CHANGE = "shift/rule/change"


def judged(tmp_path, **options):
    path = synthetic_shift.write(tmp_path / "r.jsonl", **options)
    return each(load_results(path))


def each(results, resamples=50):
    """Every claim by itself, also those that `verdicts` would leave out."""
    main = main_variant(results)
    rl, sft = main.rl, main.sft
    found = (
        shift_claims.rl_gains(results, RULE, rl),
        shift_claims.sft_loses(results, RULE, sft),
        shift_claims.rl_beats_sft(results, RULE, rl, sft),
        shift_claims.rl_beats_early_sft(results, RULE, rl, sft),
        shift_claims.more_turns(results, RULE),
        shift_claims.diverse_sft(results, RULE, sft),
        shift_claims.rl_sharpens(results, rl),
        shift_claims.rl_forgets_less_at_end(results, rl, sft),
        shift_claims.kl_shift(results, RULE, resamples),
        shift_claims.sft_ignores(results, RULE, sft),
    )
    return {verdict.key: verdict for verdict in found}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Results in which RL generalizes, SFT does not and everything else follows."""
    path = tmp_path_factory.mktemp("claims") / "results.jsonl"
    return load_results(synthetic_shift.write(path))


def test_turns_are_told_apart_by_method(tmp_path):
    extras = (("grpo", "turns_3"), ("grpo", "turns_10"), ("ppo", "turns_10"))
    results = load_results(synthetic_shift.write(tmp_path / "results.jsonl", extras=extras))
    sentence = shift_claims.more_turns(results, RULE).sentence
    gain = r"-?[\d.]+ \[[^]]+\]"
    parts = rf"grpo 1: {gain}, 3: {gain}, 10: {gain}; ppo 1: {gain}, 10: {gain}\."
    assert re.search(f"Points gained by turns: {parts}", sentence), sentence


def test_where_it_is_true_it_holds(study):
    found = each(study)
    assert tuple(found) == SHIFT
    assert {key for key, v in found.items() if v.word == HOLDS} == set(SHIFT) - {"kl_shift"}
    for v in found.values():
        assert v.n_seeds == 3
        assert v.ours.known
        assert v.n_runs > 0
        assert "nan" not in v.sentence
        assert "no estimate" not in v.sentence


def test_the_numbers_by_hand(study):
    def last(arm, column, seed):
        row = (study["arm"] == arm) & study["final"] & (study["seed"] == seed)
        return float(study[column][row][0])

    def over_seeds(value):
        return sum(value(seed) for seed in range(3)) / 3

    def rl(column, seed):
        return sum(last(arm, column, seed) for arm in RL) / 4

    found = each(study)
    by_hand = {
        "rl_gains": over_seeds(lambda s: rl(CHANGE, s)),
        "sft_loses": -over_seeds(lambda s: last("sft", CHANGE, s)),
        "rl_beats_sft": over_seeds(lambda s: rl(SCORE, s) - last("sft", SCORE, s)),
        "more_turns": over_seeds(
            lambda s: last("grpo_turns_10", CHANGE, s) - last("grpo", CHANGE, s)
        ),
        "diverse_sft": over_seeds(lambda s: last("sft_diverse", SCORE, s) - last("sft", SCORE, s)),
        "rl_sharpens": over_seeds(lambda s: rl("new/base_pass_at_64", s) - rl("new/pass_at_64", s)),
        "rl_forgets_less_at_end": over_seeds(
            lambda s: last("sft", "forgetting", s) - rl("forgetting", s)
        ),
        "sft_ignores": over_seeds(
            lambda s: last("sft", "shift/rule/fake_accuracy", s) - last("sft", SCORE, s)
        ),
    }
    for key, value in by_hand.items():
        assert found[key].ours.estimate == pytest.approx(value), key
    assert found["rl_gains"].n_runs == 12
    assert found["more_turns"].n_runs == found["diverse_sft"].n_runs == 6


@pytest.mark.parametrize(
    ("options", "failing"),
    [
        ({"shift": dict.fromkeys(RL, -0.1)}, {"rl_gains", "rl_beats_early_sft"}),
        ({"shift": {"sft": 0.2}}, {"sft_loses", "rl_beats_sft", "rl_beats_early_sft"}),
        ({"early": 0.2}, {"rl_beats_early_sft"}),
        ({"turns": -2.0}, {"more_turns"}),
        ({"tries": 0.0, "noise": 0.0}, set()),
        ({"fake": 0.0}, {"sft_ignores"}),
        ({"forget": dict.fromkeys(RL, 0.5)}, {"rl_forgets_less_at_end"}),
    ],
)
def test_words_flip_with_the_truth(tmp_path, options, failing):
    found = judged(tmp_path, **options)
    assert {key for key in SHIFT if found[key].word == FAILS} - {"kl_shift"} == failing


def test_diversity_that_harms_and_tries_that_gain(study):
    diverse = study["arm"] == "sft_diverse"
    ood = np.where(diverse, 0.0, study[SCORE])
    worse = Results({**study.columns, SCORE: ood})
    assert shift_claims.diverse_sft(worse, RULE, ("sft",)).word == FAILS
    more = study["new/base_pass_at_64"] - 0.3 - 0.01 * study["seed"]
    able = Results({**study.columns, "new/base_pass_at_64": more})
    assert shift_claims.rl_sharpens(able, RL).word == FAILS
    once = Results({**study.columns, "new/pass_at_1": study["new/base_pass_at_1"] * 0.5})
    dull = shift_claims.rl_sharpens(once, RL)
    assert dull.ours.low > 0
    assert dull.word == UNDECIDED
    assert "not better at the first try" in dull.sentence


def test_methods_that_disagree_leave_it_undecided(tmp_path):
    found = judged(tmp_path, shift={"ppo": -0.1, "grpo": 0.3})["rl_gains"]
    assert found.ours.low > 0
    assert found.word == UNDECIDED
    assert "depends on the method" in found.sentence


def test_unequal_compute_is_undecided_and_said(study):
    flops = np.where(study["arm"] == "sft", 0.5, 1.0) * study["flops"]
    found = shift_claims.rl_beats_sft(
        Results({**study.columns, "flops": flops}), RULE, RL, ("sft",)
    )
    assert found.word == UNDECIDED
    assert "not matched compute" in found.sentence
    bare = Results({k: v for k, v in study.columns.items() if k != "flops"})
    silent = shift_claims.rl_beats_sft(bare, RULE, RL, ("sft",))
    assert silent.word == HOLDS
    assert "FLOPs not measured" in silent.sentence


def test_kl_predicts_the_change_where_it_does(study):
    kl = study["new/kl_base_policy_nats"]
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(kl))
    tied = study["shift/rule/base_accuracy"] - 0.01 * kl + noise
    law = shift_claims.kl_shift(Results({**study.columns, SCORE: tied}), RULE, 50)
    assert law.word == HOLDS
    shuffled = np.random.default_rng(0).permutation(kl)
    none = Results({**study.columns, "new/kl_base_policy_nats": shuffled})
    assert shift_claims.kl_shift(none, RULE, 50).word == FAILS


def test_one_seed_is_always_undecided(study):
    for v in each(study.select(study["seed"] == 0)).values():
        assert v.word == UNDECIDED
        assert not v.ours.known
        assert v.n_seeds == 1


@pytest.mark.parametrize(
    "missing", ["shift/", "flops", "pass_at", "fake", "hyperparameters/", "kl_", "within"]
)
def test_missing_columns_are_said_not_raised(study, missing):
    keep = {k: v for k, v in study.columns.items() if missing not in k or k == "new/accuracy"}
    if missing == "kl_":
        keep["new/kl_base_policy_nats"] = np.full(len(study), math.nan)
    for v in each(Results(keep)).values():
        assert (v.ours is None) == v.sentence.startswith("No number: "), v.key
        assert v.ours is not None or v.word == UNDECIDED


def test_an_empty_study_is_said_not_raised(study):
    found = each(study.select(np.zeros(len(study), bool)))
    assert all(v.ours is None for v in found.values())
    ood = np.full(len(study), math.nan)
    nowhere = Results({**study.columns, SCORE: ood})
    for key, v in each(nowhere).items():
        if key not in ("rl_sharpens", "rl_forgets_less_at_end"):
            assert v.ours is None, key


def test_a_seed_without_a_finite_value_is_not_counted(study):
    ood = study[SCORE].copy()
    ood[(study["arm"] == "sft") & (study["seed"] == 1)] = math.nan
    found = each(Results({**study.columns, SCORE: ood}))
    assert found["sft_loses"].n_seeds == found["rl_beats_sft"].n_seeds == 2
    assert found["rl_gains"].n_seeds == 3


def test_appended_to_the_others_and_only_where_the_other_rule_was_tested(study):
    got = [v.key for v in verdicts(study, resamples=20)]
    assert got[-len(SHIFT) :] == list(SHIFT)
    assert "oracle_less" not in got  # no oracle was trained
    assert "on_policy" in got
    assert left_out(study) == {"oracle_less": "the oracle"}
    bare = Results({k: v for k, v in study.columns.items() if not k.startswith("shift/rule/")})
    assert not set(SHIFT) & {v.key for v in verdicts(bare, resamples=20)}
    assert len(verdicts(bare, resamples=20)) == 8


def test_claims_about_methods_that_were_not_trained_are_left_out_and_named(study):
    only = main_variant(study).of_arms("grpo", "grpo_std")
    absent = left_out(only)
    assert absent["rl_beats_sft"] == "plain SFT"
    assert absent["more_turns"] == "RL with several turns"
    got = {v.key for v in verdicts(only, resamples=20)}
    assert not got & set(absent)
    assert {"rl_gains", "rl_sharpens", "kl_shift", "kl_pooled"} <= got


def test_the_law_and_the_frontiers_are_of_the_methods_themselves(study):
    found = {v.key: v for v in verdicts(study, resamples=20)}
    main = main_variant(study)
    assert found["kl_pooled"].n_runs == main.n_runs
    assert found["advantage_norm"].n_runs == main.of_arms("grpo", "grpo_std", "sft").n_runs
    assert np.isfinite(final_by_seed(main, RL, "gain")).all()
