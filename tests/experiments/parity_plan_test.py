import itertools
import math

import numpy as np
import pytest

from configs.razor_parity import get_config
from experiments.parity.arms import ARMS, ON_POLICY_LOSSES, VARIANTS
from experiments.parity.lines import hyperparameters, study_run, training_flops
from experiments.parity.plan import (
    COUNTS,
    SweepRun,
    base_keys,
    learning_rates,
    plan_runs,
    run_arrays,
    split_blocks,
    variants,
)

KNOWN = list(ARMS)


@pytest.fixture
def config():
    config = get_config()
    config.arms = ("sft1", "grpo")
    config.strength.arms = ("oracle",)
    config.strength.base_epochs = (2,)
    config.sweep.learning_rates.count = 2
    config.sweep.seeds = 2
    return config


def test_learning_rates_are_the_papers():
    rates = learning_rates(3e-6, 1e-3, 15)
    expected = [3e-6 * (1e-3 / 3e-6) ** (n / 14) for n in range(15)]
    np.testing.assert_allclose(rates, expected, rtol=5e-3)
    assert (rates[0], rates[-1]) == (3e-6, 1e-3)
    assert all(float(f"{rate:.3g}") == rate for rate in rates)
    assert learning_rates(1e-4, 1e-4, 1) == [1e-4]


@pytest.mark.parametrize(("low", "high", "count"), [(0, 1, 3), (2, 1, 3), (1, 2, 0), (-1, 1, 2)])
def test_impossible_learning_rates_are_named(low, high, count):
    with pytest.raises(ValueError, match=f"got {low}, {high}, {count}"):
        learning_rates(low, high, count)


def test_every_combination_once(config):
    """Cosine for each number of epochs; constant once, for the longest."""
    arms = [("sft1", 5), ("grpo", 5), ("grpo_std", 5), ("oracle", 2), ("oracle_soft", 2)]
    schedules = [("cosine", 1), ("cosine", 2), ("constant", 2)]
    expected = {
        SweepRun(arm, seed, base_epochs, rate, schedule, epochs)
        for (arm, base_epochs), seed, rate, (schedule, epochs) in itertools.product(
            arms, range(2), (3e-6, 1e-3), schedules
        )
    }
    runs = plan_runs(config, KNOWN)
    assert set(runs) == expected
    assert len(runs) == len(expected) == len({run.name for run in runs})
    assert [run.epochs for run in runs] == sorted(run.epochs for run in runs)


def test_names_tell_runs_apart_and_are_good_folder_names(config):
    run = SweepRun("sft1", 3, 5, 3e-6, "cosine", 2)
    assert run.name == "sft1-lr3e-06-cosine-e2-b5-s3"
    assert all(name.replace("-", "").replace("_", "").replace(".", "").isalnum()
               for name in (r.name for r in plan_runs(config, KNOWN)))  # fmt: skip


# Each field of the plan: a change, and what it makes of the 60 runs (5 starts of 12 each).
KNOBS = {
    "arms": (("sft1",), 36),
    "advantage_norm": (("std",), 48),
    "oracle": (("soft",), 48),
    "strength.arms": ((), 36),
    "strength.base_epochs": ((2, 20), 84),
    "sweep.schedules": (("cosine",), 40),
    "sweep.epochs": ((2,), 40),
    "sweep.seeds": (1, 30),
    "sweep.learning_rates.count": (3, 90),
    "sweep.learning_rates.low": (1e-5, 60),
    "sweep.learning_rates.high": (1e-2, 60),
    "base.epochs": (7, 60),
}


@pytest.mark.parametrize("field", KNOBS)
def test_every_field_of_the_plan_is_alive(config, field):
    before = plan_runs(config, KNOWN)
    assert len(before) == 60
    value, count = KNOBS[field]
    config.update_from_flattened_dict({field: value})
    after = plan_runs(config, KNOWN)
    assert len(after) == count
    assert set(after) != set(before)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("arms", ("sft1", "stf2"), "unknown arm 'stf2'; allowed: .*sft2"),
        ("strength.arms", ("ppo",), "unknown arm 'ppo'"),
        ("advantage_norm", ("batch",), "config.advantage_norm holds 'batch'; allowed: none, std"),
        ("oracle", ("hard",), "config.oracle holds 'hard'; allowed: sampled, soft"),
        ("sweep.schedules", ("linear",), "config.sweep.schedules holds 'linear'; allowed"),
        ("sweep.seeds", 0, "plans no run"),
        ("sweep.epochs", (), "plans no run"),
        ("sweep.learning_rates.count", 0, "count >= 1"),
        ("arms", ("sft1", "sft1"), "plans 'sft1-.*' twice"),
        ("sweep.epochs", (1, 1), "plans '.*' twice"),
        ("strength.base_epochs", (2, 2), "plans 'oracle-.*' twice"),
        ("trajectory.arms", ("stf2",), "config.trajectory.arms holds 'stf2'"),
        *((field, 0, f"config.{field}=0 must be at least 1") for field in COUNTS),
        ("teacher.arm", "ppo", "config.teacher.arm='ppo'"),
        ("teacher.arm", "distilled", "config.teacher.arm='distilled'"),
        ("on_divergence", "stpo", "config.on_divergence='stpo' must be 'stop' or 'mark'"),
    ],
)
def test_mistakes_are_named(config, field, value, message):
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        plan_runs(config, KNOWN)


def test_variants_expand_only_what_has_variants(config):
    assert variants(("sft1", "grpo_kl", "oracle"), config) == [
        "sft1", "grpo_kl", "grpo_std_kl", "oracle", "oracle_soft",
    ]  # fmt: skip
    for field, by_value in VARIANTS.values():
        assert set(by_value) == set(get_config()[field])
        assert set(by_value.values()) <= set(ARMS)


@pytest.mark.parametrize("size", [1, 4, 7, 10, 1000])
def test_blocks_keep_the_order_and_hold_equal_lengths(config, size):
    runs = plan_runs(config, KNOWN)  # 20 of one epoch, 40 of two
    blocks = split_blocks(runs, size)
    assert list(itertools.chain(*blocks)) == runs
    for epochs, count in ((1, 20), (2, 40)):
        sizes = [len(block) for block in blocks if block[0].epochs == epochs]
        assert len(sizes) == math.ceil(count / size)
        assert max(sizes) <= size
        assert min(sizes) > max(sizes) - len(sizes)  # the last is not a leftover of one
    assert all(len({run.epochs for run in block}) == 1 for block in blocks)


def test_arrays_hold_the_plan(config):
    runs = plan_runs(config, KNOWN)
    keys = base_keys(runs)
    assert keys == [(0, 2), (0, 5), (1, 2), (1, 5)]
    arrays = run_arrays(runs, arms=KNOWN, bases=keys, warmup_steps=50, steps_per_epoch=937)
    for row, run in enumerate(runs):
        assert KNOWN[arrays.arm[row]] == run.arm
        assert keys[arrays.base[row]] == (run.seed, run.base_epochs)
        assert arrays.learning_rate[row] == np.float32(run.learning_rate)
        assert arrays.cosine[row] == (run.schedule == "cosine")
        assert arrays.total_steps[row] == run.epochs * 937
        assert arrays.warmup_steps[row] == 50
        assert arrays.seed[row] == run.seed


NONE = {"advantage_norm": None, "oracle": None, "kl_coefficient": None}
LINES = {
    "sft1": {}, "sft2": {}, "simpo": {}, "dft": {}, "reinforce": {}, "distilled": {},
    "self_sft": {}, "iterative_sft": {},
    "oracle": {"oracle": "sampled"},
    "oracle_soft": {"oracle": "soft"},
    "grpo": {"advantage_norm": "none"},
    "grpo_std": {"advantage_norm": "std"},
    "grpo_kl": {"advantage_norm": "none", "kl_coefficient": 0.1},
    "grpo_std_kl": {"advantage_norm": "std", "kl_coefficient": 0.1},
    "sft_kl_base_policy": {"kl_coefficient": 0.5},
    "sft_kl_policy_base": {"kl_coefficient": 0.5},
}  # fmt: skip


def test_every_arm_records_its_own_knobs_and_null_for_the_rest(config):
    assert set(LINES) == set(ARMS)
    for arm, knobs in LINES.items():
        run = SweepRun(arm, 0, 5, 1e-4, "cosine", 2)
        sweep = {"learning_rate": 1e-4, "schedule": "cosine", "epochs": 2, "base_epochs": 5}
        assert hyperparameters(run, config) == sweep | NONE | knobs


def test_flops_by_hand():
    """Weights 10; 3 prompts trained; 100 images labelled by the base; a teacher of 7 prompts."""
    counts = {"weights": 10, "examples": 3, "images": 100, "teacher_examples": 7}
    by_arm = {arm: training_flops(arm, **counts) for arm in ARMS}
    for arm in ("sft1", "sft2", "grpo", "reinforce", "simpo", "dft", "iterative_sft"):
        assert by_arm[arm] == (6 * 10 * 3, 0, 0)
    for arm in ("oracle", "oracle_soft", "self_sft", "grpo_kl", "sft_kl_base_policy"):
        assert by_arm[arm] == (6 * 10 * 3, 2 * 10 * 100, 0)
    assert by_arm["distilled"] == (6 * 10 * 3, 2 * 10 * 100, 6 * 10 * 7)


def test_a_run_of_the_study_says_what_the_config_means(config):
    """Two epochs of four checkpoints, 9 steps each."""
    config.checkpoints_per_epoch, config.batch_size, config.teacher.epochs = 4, 16, 3
    run = study_run(
        SweepRun("distilled", 1, 5, 1e-4, "cosine", 2), config, steps=9, weights=10, images=100
    )
    assert (run.iterations, run.stops) == (8, (1, 2, 3, 4, 5, 6, 7, 8))
    assert (run.steps_per_iteration, run.updates_per_iteration) == (9, 9)
    assert run.flops_per_iteration == 6 * 10 * 9 * 16
    assert run.flops_before == 2 * 10 * 100
    assert run.flops_teacher == 6 * 10 * 3 * 4 * 9 * 16
    assert (run.family, run.label, run.roles) == ("near", "SFT distilled from RL", "")
    assert run.hyperparameters["epochs"] == 2


def test_arms_that_compare_families_have_no_anchor():
    """Of a penalty on KL, nothing about on-policy data follows."""
    plain = {name for name, arm in ARMS.items() if "plain" in arm.roles}
    assert plain == {"sft1", "sft2", "grpo", "grpo_std", "reinforce"}
    families = {arm.family for arm in ARMS.values()}
    assert families == {"reward", "outside", "near"}
    for arm in ARMS.values():
        samples = arm.loss in ON_POLICY_LOSSES and arm.loss != "iterative_sft"
        assert samples == (arm.family == "reward")
