import json
import math

import numpy as np
import pytest
from experiments.rule_shift.lines import NORMS, pass_at, result_line
from experiments.rule_shift.plan import PlannedRun

from experiments.rule_shift.arms import ARMS
from rlrazor.analysis.results import load_results
from rlrazor.runtime.metrics import training_means
from tests.oracles.tiny_shift import tiny_config

RUN = PlannedRun("grpo_turns_3", 1, 3e-4, 40, (0, 20, 40))
NAMES = (
    "new/accuracy", "ood/accuracy", "prior/accuracy", "prior/add/accuracy", "ood/fake_accuracy",
    "new/kl_base_policy_nats", "new/kl_base_policy_nats_per_token", "prior/kl_base_policy_nats",
)  # fmt: skip
SCORES = {name: np.float32(0.125 * i) for i, name in enumerate(NAMES)}
BASE = {"scores": {name: np.float32(0.5) for name in NAMES}}
FLOPS = {"flops": 1e6, "flops_compiled": 3e6}


def line(scores=SCORES, iteration=20, means=None, run=RUN, base=BASE, **found):
    found = {"scores": scores, **found}
    return result_line(run, iteration, found, base, means or {}, tiny_config(), flops=FLOPS)


def test_the_analysis_reads_what_is_written(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = [line(iteration=i) for i in (0, 20, 40)]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    results = load_results(path)
    assert results["final"].tolist() == [False, False, True]
    np.testing.assert_allclose(results["gain"], 0 - 0.5)
    np.testing.assert_allclose(results["shift/rule/change"], 0.125 - 0.5)
    np.testing.assert_allclose(results["forgetting"], 0.5 - 0.25)
    assert results["flops"].tolist() == [0, 20e6, 40e6]
    assert results["flops_compiled"].tolist() == [0, 60e6, 120e6]
    assert results["hyperparameters/method"].tolist() == ["grpo"] * 3
    assert results["hyperparameters/variant"].tolist() == ["turns_3"] * 3
    assert results["hyperparameters/turns"].tolist() == [3] * 3


def test_a_line_says_whose_it_is_and_how_much_was_counted():
    found = line()
    for name, value in {
        "run": "grpo_turns_3-lr0.0003-s1", "arm": "grpo_turns_3", "seed": 1, "step": 20,
        "final": False, "diverged": False, "new/count": 16, "ood/count": 16,
        "prior/count": 8 * 4,
    }.items():  # fmt: skip
        assert found[name] == value
    assert found["hyperparameters"] == {
        "method": "grpo", "variant": "turns_3", "learning_rate": 3e-4, "advantage_norm": "none",
        "turns": 3, "iterations": 40,
    }  # fmt: skip
    for name in NAMES:
        assert found[name] == SCORES[name]


def test_what_is_no_number_is_null_and_marks_the_run_as_diverged():
    for bad in (np.nan, np.inf):
        found = line({**SCORES, "new/kl_base_policy_nats": np.float32(bad)})
        assert found["new/kl_base_policy_nats"] is None
        assert found["diverged"]
        json.dumps(found, allow_nan=False)
    found = line(means={"loss": [0.0, 0]})
    assert found["train/loss"] is None
    assert not found["diverged"]


def test_training_means_leave_out_what_is_not_finite():
    means = {}
    for loss in (1.0, math.nan, 4.0, math.inf):
        before = dict(means)
        means = training_means(means, {"loss": np.float32(loss), "solved": np.float32(0.5)})
        assert before == {} or before["solved"][1] == means["solved"][1] - 1  # a copy
    assert means == {"loss": [5.0, 2], "solved": [2.0, 4]}
    assert means == json.loads(json.dumps(means))  # what a checkpoint keeps
    found = line(means=means)
    assert (found["train/loss"], found["train/solved"]) == (2.5, 0.5)


def test_turns_and_repeated_answers_stand_beside_the_bases():
    turns = {f"{task}/success_within_{k}": k / 10 for task in ("new", "ood") for k in (1, 2)}
    correct = np.array([0, 4, 8, 2, 1, 0])
    base = {**BASE, "turns": turns, "repeated": {"ood": correct}}
    found = line(base=base, repeated={"ood": np.flip(correct // 2)})
    assert found["new/base_success_within_2"] == 0.2
    assert "new/success_within_2" not in found
    for k in (1, 2, 8):
        assert found[f"ood/base_pass_at_{k}"] == pass_at(correct, 8, k)
        assert found[f"ood/pass_at_{k}"] == pass_at(correct // 2, 8, k)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_has_a_line(name):
    run = PlannedRun(name, 0, 1e-3, 4, (0, 4))
    norm = line(run=run)["hyperparameters"]["advantage_norm"]
    assert norm == NORMS[ARMS[name].how.advantage]
    assert norm in (None, "none", "std")
