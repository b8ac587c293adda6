import itertools

import numpy as np
import pytest

from configs import sft_memorizes_gp_l
from experiments.rule_shift.arms import ARMS, METHODS, SOURCES, VARIANTS, Arm
from experiments.rule_shift.flops import flops_per_iteration
from experiments.rule_shift.objectives import OBJECTIVES
from experiments.rule_shift.plan import (
    COUNTS,
    PlannedRun,
    check_config,
    in_order,
    plan_runs,
    rates_of,
)
from experiments.rule_shift.programs import sizes_of
from tests.oracles.tiny_shift import tiny_config

MODES = ("full", "cpu", "select", "quick", "released")
TOKENS = {name: 100 + 40 * ARMS[name].setting.turns for name in ARMS}


def planned(config, weights=1000):
    return plan_runs(config, weights=weights, tokens=TOKENS)


def cost(run, config, weights=1000):
    return flops_per_iteration(ARMS[run.arm], config, weights=weights, tokens=TOKENS[run.arm])


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_the_config_is_a_plan(mode):
    config = sft_memorizes_gp_l.get_config(mode)
    runs = planned(config)
    rates = sum(len(rates_of(ARMS[arm], config)) for arm in config.arms)
    assert len(runs) == len({run.name for run in runs}) == rates * len(config.seeds)
    assert {run.arm for run in runs} == set(config.arms)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_run_before_what_it_needs(mode):
    runs = planned(sft_memorizes_gp_l.get_config(mode))
    done = set()
    for run in runs:
        assert {(needed, run.seed) for needed in ARMS[run.arm].needs} <= done, run
        done.add((run.arm, run.seed))


def test_the_order_is_the_configs_where_nothing_is_needed():
    assert in_order(("dft", "sft", "grpo")) == ["dft", "sft", "grpo"]
    assert in_order(("distilled", "sft", "grpo")) == ["grpo", "distilled", "sft"]
    assert in_order(("grpo_from_sft", "grpo", "sft")) == ["sft", "grpo_from_sft", "grpo"]
    for arms in itertools.permutations(("grpo", "sft_fixed", "grpo_from_overfit", "sdft")):
        ordered = in_order(arms)
        assert sorted(ordered) == sorted(arms)
        assert ordered.index("sft_fixed") < ordered.index("grpo_from_overfit")


def test_every_arm_gets_the_same_flops():
    config = sft_memorizes_gp_l.get_config("full")
    runs = planned(config)
    budget = config.iterations * flops_per_iteration(
        Arm("grpo"), config, weights=1000, tokens=TOKENS["grpo"]
    )
    for run in runs:
        one = cost(run, config)
        assert abs(run.iterations * one - budget) <= one / 2, run.name
    by_arm = {run.arm: run.iterations for run in runs}
    assert by_arm["grpo"] == config.iterations
    assert by_arm["sft"] == round(config.iterations * 8 / 6)


def test_the_budget_is_grpos_whatever_arm_stands_first():
    config = sft_memorizes_gp_l.get_config("full")
    plain = {run.name: run.iterations for run in planned(config)}
    config.arms = tuple(reversed(config.arms))
    assert config.arms[0] not in ("grpo", "sft")
    config.arms = ("grpo_turns_10", *(arm for arm in config.arms if arm != "grpo_turns_10"))
    assert {run.name: run.iterations for run in planned(config)} == plain


def test_checkpoints_are_shares_of_the_budget_from_the_first_to_the_last():
    config = tiny_config(iterations=80, checkpoints=(0.0625, 0.5, 1.0))
    for run in planned(config):
        assert (run.checkpoints[0], run.checkpoints[-1]) == (0, run.iterations)
        np.testing.assert_allclose(
            np.array(run.checkpoints[1:]) / run.iterations, config.checkpoints, atol=0.5 / 80
        )
    short = planned(tiny_config(iterations=1, checkpoints=(0.0625, 0.5, 1.0)))
    assert [run.checkpoints for run in short] == [(0, 1), (0, 1)] * 2


MISTAKES = [
    *((field, 0, rf"config.{field}=0 must be at least 1") for field in COUNTS),
    ("rows", 25, r"config.rows=25 must be a multiple of config.minibatches=2"),
    ("samples", 5, r"config.rows=24 must be a multiple .* config.samples=5"),
    ("arms", ("sft", "grop"), r"config.arms holds 'grop'; allowed: .*grpo"),
    ("arms", ("distilled",), r"arm 'distilled' needs 'grpo' too; add it to config.arms"),
    ("arms", ("grpo_from_overfit",), r"arm 'grpo_from_overfit' needs 'sft_fixed' too"),
    ("arms", ("sdft_turns_3",), r"arm 'sdft_turns_3': SDFT shows a demonstration of one answer"),
    ("arms", (), r"config.arms and config.seeds need entries"),
    ("arms", ("sft", "sft"), r"config.arms .* none twice: \('sft', 'sft'\)"),
    ("seeds", (), r"config.arms and config.seeds need entries"),
    ("seeds", (1, 1), r"plans a run twice; remove the repeated seed"),
    ("learning_rates.sft", (1e-3, 1e-3), r"plans a run twice; remove the repeated seed or rate"),
    ("checkpoints", (0.5,), r"config.checkpoints=\(0.5,\) must be shares .* end with 1"),
    ("checkpoints", (0.0, 1.0), r"config.checkpoints=.* must be shares"),
    ("checkpoints", (0.5, 1.5), r"config.checkpoints=.* must be shares"),
]


@pytest.mark.parametrize(("field", "value", "message"), MISTAKES)
def test_mistakes_are_named(field, value, message):
    config = tiny_config(**{field: value})
    with pytest.raises(ValueError, match=message):
        planned(config)


def test_a_method_without_a_rate_is_named():
    config = tiny_config()
    del config.learning_rates["grpo"]
    with pytest.raises(ValueError, match=r"config.learning_rates lacks 'grpo'; add one or more"):
        check_config(config)


def test_an_arm_has_its_own_rates_or_else_those_of_its_method():
    config = tiny_config(arms=("grpo", "grpo_turns_3", "grpo_slow", "sft_slow"))
    config.learning_rates = {"grpo": (1e-2, 1e-3), "grpo_turns_3": (3e-3,), "sft_slow": (1e-5,)}
    rates = {}
    for run in planned(config):
        rates.setdefault(run.arm, set()).add(run.learning_rate)
    assert rates == {
        "grpo": {1e-2, 1e-3}, "grpo_turns_3": {3e-3}, "grpo_slow": {1e-3, 1e-4}, "sft_slow": {1e-5}
    }  # fmt: skip


def test_an_unknown_mode_is_named():
    with pytest.raises(
        ValueError, match="mode='fast' must be full, cpu, select, quick or released"
    ):
        sft_memorizes_gp_l.get_config("fast")


@pytest.mark.parametrize("mode", MODES)
def test_minibatches_divide_the_rows_of_every_arm(mode):
    config = sft_memorizes_gp_l.get_config(mode)
    for name, arm in ARMS.items():
        sizes = sizes_of(arm, config)
        assert sizes.rows % config.minibatches == 0, name
        assert (
            0
            < sizes.rows * arm.setting.turns
            <= max(config.rows, config.minibatches * sizes.samples * arm.setting.turns)
        ), name
        assert sizes.samples == (1 if arm.how.source in ("expert", "pairs") else config.samples)


def test_the_tables_hold_together():
    for name, method in METHODS.items():
        assert method.source in SOURCES
        assert method.objective in OBJECTIVES
        assert method.teacher is None or ARMS[method.teacher].needs == ()
        assert (method.source == "teacher") <= (method.teacher is not None), name
    assert set(sft_memorizes_gp_l.METHODS) == set(METHODS)
    assert set(sft_memorizes_gp_l.VARIANTS) <= set(ARMS)
    assert len(ARMS) == len(METHODS) * len(VARIANTS)
    starts = [v.start[0] for v in VARIANTS.values() if v.start]
    assert all(ARMS[start].needs == () for start in starts)


def test_a_start_is_the_checkpoint_nearest_to_its_share():
    run = PlannedRun("sft", 0, 1e-3, 53, (0, 2, 5, 16, 53))  # a tenth is 5.3: saved as 5
    assert [run.checkpoint_at(share) for share in (0.01, 0.1, 0.15, 0.3, 1.0)] == [2, 5, 5, 16, 53]


def test_a_name_tells_arm_rate_and_seed():
    runs = planned(tiny_config(**{"learning_rates.sft": (1e-2, 3e-4)}))
    assert [run.name for run in runs if run.seed == 1] == [
        "sft-lr0.01-s1", "sft-lr0.0003-s1", "grpo-lr0.01-s1",
    ]  # fmt: skip
