import math

import numpy as np
import pytest

from rlrazor.analysis import arm_claims, law_claims
from rlrazor.analysis.claims import judge
from rlrazor.analysis.frontier import automatic_target, frontiers, matched, target_list
from rlrazor.analysis.results import ALWAYS, Results, load_results
from rlrazor.analysis.statistics import Interval
from rlrazor.analysis.verdicts import FAILS, HOLDS, UNDECIDED, verdicts
from tests.oracles import synthetic_results
from tests.oracles.tiny_results import of_points, of_runs

ARMS = (
    "sft1",
    "sft2",
    "oracle",
    "oracle_soft",
    "grpo",
    "grpo_std",
    "grpo_kl",
    "reinforce",
    "simpo",
)
KEYS = [
    "rl_less",
    "kl_pooled",
    "same_curve",
    "kl_within",
    "kl_best",
    "oracle_less",
    "on_policy",
    "advantage_norm",
]
RL = ("grpo", "grpo_std", "reinforce")


def found(tmp_path, **options):
    path = synthetic_results.write(tmp_path / "r.jsonl", **{"arms": ARMS} | options)
    return {v.key: v for v in verdicts(load_results(path), resamples=300)}


def swapped(results, column, rng_seed=0):
    """The same rows with one column shuffled among them."""
    order = np.random.default_rng(rng_seed).permutation(len(results))
    return Results({**results.columns, column: results[column][order]})


@pytest.fixture(scope="module")
def razor(tmp_path_factory):
    """Results in which everything the paper says is true."""
    path = tmp_path_factory.mktemp("razor") / "results.jsonl"
    return load_results(synthetic_results.write(path, arms=ARMS))


def test_the_rule_is_the_same_both_ways():
    assert judge(Interval(0.5, 0.4, 0.6, 5), 0.3) == HOLDS
    assert judge(Interval(0.5, 0.4, 0.6, 5), 0.7) == FAILS
    assert judge(Interval(0.5, 0.4, 0.6, 5), 0.5) == UNDECIDED
    assert judge(Interval(0.5, math.nan, math.nan, 1), 0.3) == UNDECIDED
    assert judge(None, 0.3) == UNDECIDED


def test_where_the_paper_is_right_it_holds(razor):
    got = verdicts(razor, resamples=300)
    assert [v.key for v in got] == KEYS
    by_key = {v.key: v for v in got}
    assert {v.key for v in got if v.word == HOLDS} == set(KEYS) - {"advantage_norm"}
    assert by_key["advantage_norm"].word == FAILS  # std and none are both below SFT
    for v in got:
        assert v.n_seeds == 5
        assert v.n_runs > 0
        assert v.ours.known
        assert "nan" not in v.sentence
    assert by_key["kl_pooled"].n_runs == razor.n_runs
    assert by_key["rl_less"].n_runs == razor.of_arms("sft1", "sft2", *RL).n_runs


def test_where_it_is_wrong_it_does_not_hold(tmp_path):
    got = found(tmp_path, offsets=dict.fromkeys(RL, 0.25))
    for key in ("rl_less", "kl_pooled", "same_curve", "on_policy"):
        assert got[key].word == FAILS, key
    assert got["kl_within"].word == HOLDS  # an offset leaves the order within an arm alone
    assert got["rl_less"].ours.high < 0
    worse_oracle = found(tmp_path, offsets={"oracle": 0.3})
    assert worse_oracle["oracle_less"].word == FAILS
    assert worse_oracle["oracle_less"].ours.high < 0


def test_matched_gap_is_the_mean_over_arms_and_seeds(razor):
    chosen = razor.of_arms("sft1", "sft2", *RL)
    entries = {e.arm: e.best_by_base for e in matched(chosen, automatic_target(chosen))}
    sft = np.mean([entries[arm] for arm in ("sft1", "sft2")], 0)
    rl = np.mean([entries[arm] for arm in RL], 0)
    assert verdicts(razor, resamples=20)[0].ours.estimate == pytest.approx(np.mean(sft - rl))


def test_one_seed_is_always_undecided(razor):
    got = verdicts(razor.select(razor["seed"] == 0), resamples=20)
    assert {v.word for v in got} == {UNDECIDED}
    assert all(v.ours is not None and not v.ours.known for v in got)
    assert {v.n_seeds for v in got} == {1}


def test_variants_that_disagree_leave_the_general_claim_undecided(tmp_path):
    got = found(tmp_path, offsets={"grpo_std": 0.5})
    assert got["rl_less"].word == UNDECIDED
    assert "depends on the variant" in got["rl_less"].sentence


def test_a_flip_by_normalisation_is_found(tmp_path):
    got = found(tmp_path, std_rate=2.0)["advantage_norm"]
    assert got.word == HOLDS
    assert got.ours.low > 0
    assert "(RL less)" in got.sentence
    assert "(RL more)" in got.sentence


@pytest.mark.parametrize(
    ("forgetting", "contrast", "word"),
    [  # grpo, reinforce, simpo, sft1 -> saved by on-policy data - |effect of negatives|
        ((0.10, 0.12, 0.30, 0.28), 0.18 - 0.00, HOLDS),
        ((0.10, 0.18, 0.30, 0.28), 0.15 - 0.03, HOLDS),
        ((0.30, 0.10, 0.30, 0.10), 0.00 - 0.20, FAILS),  # negatives do harm
        ((0.10, 0.30, 0.10, 0.30), 0.00 - 0.20, FAILS),  # negatives do good
        ((0.30, 0.30, 0.10, 0.10), -0.20 - 0.00, FAILS),  # on-policy data does harm
        ((0.10, 0.20, 0.20, 0.30), 0.10 - 0.10, UNDECIDED),
    ],
)
def test_on_policy_data_against_negatives_by_hand(forgetting, contrast, word):
    jitter = (0.0, 0.01, -0.01, 0.02, -0.02)
    arms = dict(zip(("grpo", "reinforce", "simpo", "sft1"), forgetting, strict=True))
    runs = [
        (arm, seed, "a", [(0.9, lost + shift * (1 + (arm == "grpo")))])
        for arm, lost in arms.items()
        for seed, shift in enumerate(jitter)
    ]
    got = arm_claims.on_policy(of_runs(*runs), ("sft1", "sft2"))
    assert got.ours.estimate == pytest.approx(contrast)
    assert got.word == word


def test_on_policy_data_names_the_arms_it_lacks():
    """One of the two SFT arms is enough."""
    arms = ("grpo", "reinforce", "sft1")
    runs = [(arm, seed, "a", [(0.9, 0.1)]) for arm in arms for seed in range(3)]
    sentence = arm_claims.on_policy(of_runs(*runs), ("sft1", "sft2")).sentence
    assert sentence == (
        "No number: absent or short of the accuracy to match: imitation of right and wrong answers."
    )


def test_best_and_typical_runs_that_disagree_leave_it_undecided():
    """RL has the best run and the worst average."""
    lost = {"sft1": (0.20, 0.22), "grpo": (0.05, 0.50)}
    runs = [
        (arm, seed, str(i), [(0.84, 0.0), (0.86, lost[arm][i] + 0.01 * seed * (arm == "grpo"))])
        for arm in lost
        for seed in range(3)
        for i in range(2)
    ]
    got = arm_claims.rl_less(of_runs(*runs), ("grpo",), ("sft1",))
    assert got.ours.low > 0
    assert got.word == UNDECIDED
    assert "Best and typical runs disagree" in got.sentence


def test_the_target_comes_down_where_it_would_leave_one_side_empty():
    reach = {"grpo": 0.95, "grpo_std": 0.95, "grpo_kl": 0.95, "reinforce": 0.95, "oracle": 0.86}
    runs = [(arm, s, "a", [(top, 0.1 + 0.01 * s)]) for arm, top in reach.items() for s in (0, 1)]
    got = arm_claims.oracle_less(of_runs(*runs), RL)
    assert "accuracy 0.860" in got.sentence
    assert got.ours.n == 2


def test_each_law_claim_has_its_own_threshold():
    """R2 near 0.65: too little for the law, enough within arms and for an arm left out."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=2000)
    y = 0.1 * x + 0.021 * rng.standard_normal(2000)
    points = of_points(x, y, arm=["sft1", "grpo"] * 1000, seed=np.arange(2000) // 2 % 5)
    assert law_claims.kl_pooled(points, 300).word == FAILS
    assert law_claims.kl_within(points, 300).word == HOLDS
    assert law_claims.same_curve(points, RL, 300).word == HOLDS


def test_a_curve_tested_mostly_out_of_its_range_is_undecided():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 1, 300), rng.uniform(0.7, 3, 300)])
    y = 0.1 * x + 0.001 * rng.standard_normal(600)
    got = law_claims.same_curve(
        of_points(x, y, arm=["grpo"] * 300 + ["sft1"] * 300, seed=np.arange(600) % 5), RL, 300
    )
    assert got.ours.low > 0.5
    assert got.word == UNDECIDED


def test_a_better_rival_takes_kl_off_the_throne(razor):
    noisy = swapped(razor, "new/kl_base_policy_nats")
    got = {v.key: v for v in verdicts(noisy, resamples=300)}
    assert got["kl_best"].word == FAILS
    assert got["kl_pooled"].word == FAILS
    assert got["kl_within"].word == FAILS
    one_better = Results({**razor.columns, "weights/l1": 3 * razor["forgetting"] + 1})
    assert {v.key: v.word for v in verdicts(one_better, resamples=300)}["kl_best"] == FAILS
    tie = Results({**razor.columns, "weights/l1": razor["new/kl_base_policy_nats"]})
    assert {v.key: v.word for v in verdicts(tie, resamples=300)}["kl_best"] == UNDECIDED


def test_old_task_predictors_are_named_but_do_not_decide(razor):
    perfect = Results({**razor.columns, "prior/total_variation": razor["forgetting"] * 2})
    best = {v.key: v for v in verdicts(perfect, resamples=300)}["kl_best"]
    assert best.word == HOLDS
    assert "total variation, prior tasks" in best.sentence


def test_what_cannot_be_computed_says_why(razor):
    alone = {v.key: v for v in verdicts(razor.of_arms("grpo"), resamples=20)}
    for key in ("rl_less", "oracle_less", "on_policy", "advantage_norm", "same_curve"):
        assert alone[key].ours is None
        assert alone[key].word == UNDECIDED
        assert alone[key].sentence.startswith("No number: ")
    required = ("new/", *ALWAYS)
    skip = ("new/l2", "new/total", "new/act", "new/kl_policy")
    bare = {
        n: v for n, v in razor.columns.items() if n.startswith(required) and not n.startswith(skip)
    }
    without = {v.key: v for v in verdicts(Results(bare), resamples=20)}
    assert without["kl_best"].sentence == "No number: no rival was measured."
    assert without["kl_pooled"].ours is not None
    dead = Results({**razor.columns, "new/kl_base_policy_nats": np.full(len(razor), math.nan)})
    for v in verdicts(dead, resamples=20):
        assert v.key in ("rl_less", "oracle_less", "on_policy", "advantage_norm") or v.ours is None


def test_nothing_finite_at_all_is_said_not_raised(razor):
    dead = Results({**razor.columns, "prior/accuracy": np.full(len(razor), math.nan)})
    for v in verdicts(dead, resamples=20):
        assert v.ours is None or not np.isfinite(v.ours.estimate)
        assert v.word == UNDECIDED
    assert frontiers(dead) == []


def test_arms_short_of_the_accuracy_are_named(razor):
    slow = razor["arm"] == "reinforce"
    weak = np.where(slow, np.minimum(razor["new/accuracy"], 0.86), razor["new/accuracy"])
    got = verdicts(Results({**razor.columns, "new/accuracy": weak}), resamples=20)[0]
    assert "left out: reinforce" in got.sentence
    assert got.word == HOLDS


def test_only_the_norm_claim_looks_beyond_the_main_base(tmp_path):
    path = synthetic_results.write(tmp_path / "r.jsonl", arms=ARMS, base_epochs=(5, 20))
    results = load_results(path)
    drop = (results["hyperparameters/base_epochs"] == 20) & (results["seed"] == 0)
    got = {v.key: v for v in verdicts(results.select(~drop), resamples=20)}
    assert got["kl_pooled"].n_runs == results.n_runs / 2
    assert (
        got["advantage_norm"].n_runs
        > results.of_arms("grpo", "grpo_std", "sft1", "sft2").n_runs / 2
    )


def test_a_kl_penalty_is_no_evidence_for_on_policy_data(razor):
    penalised = np.isin(razor["arm"], ("grpo_kl", "grpo_std_kl"))
    spoiled = np.where(penalised, 0.0, razor["prior/accuracy"])
    got = verdicts(Results({**razor.columns, "prior/accuracy": spoiled}), resamples=20)[0]
    assert got.ours == verdicts(razor, resamples=20)[0].ours


def test_the_gap_is_told_at_lower_accuracies_too(razor):
    chosen = razor.of_arms(*RL, "sft1", "sft2")
    lower = target_list(chosen)[0]
    entries = {e.arm: e.best_by_base for e in matched(chosen, lower)}
    sft = np.mean([entries[arm] for arm in ("sft1", "sft2")])
    rl = np.mean([entries[arm] for arm in RL])
    sentence = verdicts(razor, resamples=20)[0].sentence
    assert f"At lower accuracies: {100 * (sft - rl):.1f} points" in sentence
    assert f"at {lower:.3f}" in sentence


def test_arms_off_the_curve_are_named(tmp_path):
    sentence = found(tmp_path, offsets={"simpo": 0.3})["same_curve"].sentence
    assert "By themselves" in sentence
    assert "simpo" in sentence.split("arms lie on it, not ")[1].split(".")[0]
