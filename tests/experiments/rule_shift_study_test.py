"""The rule-shift study from its config: arms, worlds, rates, mistakes, released models."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sft_memorizes_gp_l
from configs.names import Names
from experiments.rule_shift import study as studies
from experiments.rule_shift import tasks as study_tasks
from experiments.rule_shift.arms import VARIANTS, Named, read_name
from experiments.rule_shift.base import load_spoken
from experiments.rule_shift.study import COUNTS, check_config, make_study, rates_of, sizes_of
from experiments.rule_shift.world import make_world
from rlrazor.analysis.building import read_studies
from rlrazor.methods import methods
from rlrazor.methods.method import Demonstrations, Pairs
from rlrazor.studies.device import OnDevice, itself
from rlrazor.studies.world import World
from rlrazor.tasks.general_points.rewards import BINARY, PAPER
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER
from tests.oracles import tiny_models
from tests.oracles.scripts import ROOT, Script
from tests.oracles.tiny_shift import spoken, tiny_config

pytestmark = pytest.mark.usefixtures("quick_compiles")

MODES = ("full", "cpu", "select", "quick", "released")
NAMES = [
    Named(method, variant).name for method in methods.all_methods().values() for variant in VARIANTS
]


class Rows:
    """A world that plans without tables: rows of 100 tokens and 40 a turn."""

    refusal = OnDevice(None, expert=itself, anchors=()).refusal

    def row_tokens(self, setup):
        return 100 + 40 * setup.turns


@pytest.fixture
def planned(monkeypatch):
    def plan(config):
        monkeypatch.setattr(studies, "make_world", lambda *_, **__: World(Rows(), []))
        return make_study(config, spoken()).runs

    return plan


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_the_config_is_a_plan(mode, planned):
    config = sft_memorizes_gp_l.get_config(mode)
    runs = planned(config)
    rates = sum(len(rates_of(read_name(arm), config)) for arm in config.arms)
    assert len(runs) == len({run.name for run in runs}) == rates * len(config.seeds)
    assert {run.arm for run in runs} == set(config.arms)
    assert all(run.label and run.variant in VARIANTS for run in runs)


def test_the_budget_is_grpos_whatever_arms_there_are(planned):
    config = sft_memorizes_gp_l.get_config("full")
    by_arm = {run.arm: run for run in planned(config)}
    grpo = by_arm["grpo"]
    assert grpo.iterations == config.iterations
    budget = grpo.iterations * grpo.flops_per_iteration
    for run in by_arm.values():
        one = run.flops_per_iteration
        assert abs(run.iterations * one - budget) <= one / 2, run.name
    config.arms = ("sft",)
    assert planned(config)[0].iterations == by_arm["sft"].iterations


MISTAKES = [
    *((field, 0, rf"config.{field}=0 must be at least 1") for field in COUNTS),
    ("rows", 25, r"config.rows=25 must be a multiple of config.samples=4 times .*minibatches=2"),
    ("samples", 5, r"config.rows=24 must be a multiple .*config.samples=5"),
    ("temperature", 0.0, r"config.temperature=0.0 must be above 0"),
    ("arms", ("sft", "grop"), r"unknown arm 'grop'; an arm is a method \(sft, .*\), or one with"),
    ("arms", ("distilled",), r"arm 'distilled' needs the arm 'grpo' too; add it"),
    ("arms", ("grpo_from_overfit",), r"arm 'grpo_from_overfit' needs the arm 'sft_fixed' too"),
    ("arms", ("sdft_turns_3",), r"'sdft_turns_3': SDFT shows a demonstration of one answer"),
    ("arms", (), r"there is no arm"),
    ("seeds", (), r"seeds=\(\) must be one or more"),
    ("seeds", (1, 1), r"seeds=\(1, 1\) must be one or more, each once"),
    ("learning_rates.sft", (1e-3, 1e-3), r"is planned twice; remove the repeated learning rate"),
    ("checkpoints", (0.5,), r"checkpoints=\(0.5,\) must be shares of a run up to 1"),
    ("measure.kl_prompts", 3, r"config.measure.kl_prompts=3 must be at least 8"),
    ("measure.pass_at", (1, 9), r"config.measure.pass_at=\(1, 9\) needs that many"),
    ("measure.turns", (1, 11), r"config.measure.turns=\(1, 11\) must lie between 1 and 10"),
    ("measure.turn_arms", ("gpro",), r"unknown arm 'gpro'"),
]


@pytest.mark.parametrize(("field", "value", "message"), MISTAKES)
def test_mistakes_are_named(field, value, message, planned):
    with pytest.raises(ValueError, match=message):
        planned(tiny_config(**{field: value}))


def test_a_method_without_a_rate_is_named():
    config = tiny_config()
    del config.learning_rates["grpo"]
    with pytest.raises(ValueError, match=r"config.learning_rates lacks 'grpo'; add one or more"):
        rates_of(read_name("grpo"), config)


def test_an_arm_has_its_own_rates_or_else_those_of_its_method():
    config = tiny_config()
    rates = {"grpo": (1e-2, 1e-3), "grpo_turns_3": (3e-3,), "sft_slow": (1e-5,)}
    config.learning_rates = Names(rates)
    for arm, rates in {
        "grpo": (1e-2, 1e-3), "grpo_turns_3": (3e-3,), "grpo_slow": (1e-3, 1e-4),
        "sft_slow": (1e-5,),
    }.items():  # fmt: skip
        np.testing.assert_allclose(rates_of(read_name(arm), config), rates)


def test_a_name_is_read_as_it_is_written():
    assert len(set(NAMES)) == len(NAMES)
    for name in NAMES:
        assert read_name(name).name == name
    assert set(sft_memorizes_gp_l.VARIANTS) <= set(NAMES)


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_whole_groups_of_every_minibatch(mode):
    config = sft_memorizes_gp_l.get_config(mode)
    check_config(config)
    for name in NAMES:
        named = read_name(name)
        sizes = sizes_of(named, config)
        given = isinstance(named.method.source, Demonstrations | Pairs)
        assert sizes.samples == (1 if given else config.samples)
        assert sizes.rows % (sizes.samples * sizes.minibatches) == 0
        least = config.minibatches * sizes.samples * named.setting.turns
        assert 0 < sizes.rows * named.setting.turns <= max(config.rows, least)


# The tasks of a variant.


@pytest.fixture
def made(monkeypatch):
    """What `training_tasks` and `make_tests` ask for, without making it."""
    calls = []

    def record(rule, vocabulary, **options):
        calls.append({"rule": rule, **options})
        return {"number": jax.numpy.int32(len(calls))}

    monkeypatch.setattr(study_tasks, "make_general_points", record)
    monkeypatch.setattr(study_tasks, "alike", lambda tasks: tasks)
    monkeypatch.setattr(study_tasks, "find_refusals", lambda rule: "released")
    monkeypatch.setattr(study_tasks, "make_procedural", lambda *a, **o: {"n": jax.numpy.int32(0)})
    return calls


def trained_on(made, variant, rules=4):
    made.clear()
    study_tasks.training_tasks(VARIANTS[variant], None, rules=rules, seed=0)
    return list(made)


def test_every_variant_trains_on_its_rule_wording_rewards_and_turns(made):
    for name, setting in VARIANTS.items():
        calls = trained_on(made, name)
        first = FACES_IN_ORDER if setting.direction == "reverse" else FACES_AS_TEN
        assert calls[0]["rule"] == first
        for call in calls:
            assert call["budget"] == setting.turns
            assert call["terse"] == setting.terse
            assert len(call["templates"]) == (7 if setting.diverse else 1)
            assert ('"cards": []' in call["templates"][0]) == setting.terse
            expected = {"paper": PAPER, "released": "released", "binary": BINARY}
            assert call["rewards"] == expected[setting.rewards]


def test_diverse_training_has_many_rules_and_never_that_of_the_test(made):
    calls = trained_on(made, "diverse", rules=40)
    rules = [call["rule"].values for call in calls]
    assert len(set(rules)) == len(rules) == 40
    assert FACES_IN_ORDER.values not in rules
    assert rules[0] == FACES_AS_TEN.values


@pytest.mark.parametrize("variant", ["main", "reverse"])
def test_the_fake_judge_states_the_tests_rule_and_goes_by_trainings(made, variant):
    study_tasks.make_tests(VARIANTS[variant], None)
    new, ood, fake, *released = made
    train, test = (FACES_AS_TEN, FACES_IN_ORDER)[:: -1 if variant == "reverse" else 1]
    assert (new["rule"], new.get("stated")) == (train, None)
    assert (ood["rule"].values, ood.get("stated")) == (test.values, None)
    assert (fake["rule"].values, fake["stated"].values) == (train.values, test.values)
    assert ood["rule"].needs_face_card
    assert fake["rule"].needs_face_card
    assert [call["rewards"] for call in released] == ["released"] * 2
    assert [call["rule"].values for call in released] == [train.values, test.values]


# A released model.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save(tmp_path_factory.mktemp("released") / "model")


@functools.cache
def released(folder):
    return load_spoken(tiny_config(model=str(folder)))


def test_a_world_is_made_in_a_released_models_words(folder, monkeypatch):
    for name in ("FACES_AS_TEN", "FACES_IN_ORDER"):  # a thirteenth of the prompts
        rule = dataclasses.replace(getattr(study_tasks, name), cards=3)
        monkeypatch.setattr(study_tasks, name, rule)
    monkeypatch.setattr(study_tasks, "find_refusals", lambda rule: BINARY)  # are of four cards
    base = released(folder)
    chat = base.base.chat
    world = make_world(
        VARIANTS["turns_3"], base.speech, base.policy, tiny_config().measure, rules=2
    )

    @jax.jit
    def say(tasks, key):
        task = jax.tree.map(lambda leaf: leaf[0], tasks)
        state = task.reset(key)
        opening, answer = task.opening(state), task.demonstrate(key, state)
        reply = task.reply(task.step(state, jnp.zeros(64, jnp.uint8))[0])
        return (opening.tokens, opening.length), answer, (reply.tokens, reply.length)

    opening, answer, reply = (
        chat.tokenizer.decode(tokens[:length].tolist())
        for tokens, length in jax.device_get(say(world.train.tasks, jax.random.key(0)))
    )
    assert opening.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert "24" in opening
    assert set(json.loads(answer)) == {"cards", "number", "formula"}
    assert reply.startswith("\n<|im_start|>user\n")
    assert reply.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert base.speech.end in chat.stop_ids
    assert {m.prefix for m in world.measurements} == {"new", "shift/rule", "prior"}


@pytest.mark.slow
def test_a_released_model_from_sft_to_grpo_of_several_turns(folder, tmp_path, cache):
    given = {
        "model": folder, "arms": "('sft','grpo','grpo_turns_3')", "seeds": "(0,1)",
        "iterations": "2", "rows": "24", "samples": "4", "minibatches": "2", "answer_tokens": "8",
        "rows_at_once": "8", "checkpoints": "(1.0,)", "mesh.data": "1", "tensorboard": "False",
        "measure.hands": "8", "measure.questions": "2", "measure.kl_prompts": "8",
        "measure.turn_hands": "4", "measure.turns": "(1,2)", "measure.turn_arms": "('grpo',)",
        "measure.at_once": "8", "measure.rows_at_once": "8",
    }  # fmt: skip
    workdir = tmp_path / "run"
    config = f"--config={ROOT / 'configs' / 'sft_memorizes_gp_l.py'}:quick"
    overrides = [f"--config.{name}={value}" for name, value in given.items()]
    script = Script(
        "gp_rule_shift.py", config, f"--workdir={workdir}", *overrides,
        folder=tmp_path / "output", cache=cache,
    )  # fmt: skip
    ended = script.wait()
    assert ended.status == 0, ended.stderr
    lines = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    finals = {line["arm"]: line for line in lines if line["final"]}
    assert set(finals) == {"sft", "grpo", "grpo_turns_3"}
    for line in finals.values():
        assert not line["diverged"]
        assert line["new/kl_base_policy_nats"] >= -1e-6
        assert line["shift/rule/base_accuracy"] is not None
    # A model of random weights earns nothing, and so learns from demonstrations alone.
    assert finals["sft"]["new/kl_base_policy_nats"] > 0.1
    assert finals["grpo_turns_3"]["train/groups_alike"] is not None
    assert finals["grpo"]["new/success_within_2"] is not None
    (study,) = read_studies(workdir, resamples=100).values()
    assert study.found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bases": ("a", "b")}, "config.bases has 2 folders"),
        ({"bases": ("a",), "base_kinds": ("x",), "model": "m"}, "two answers to one question"),
        ({"bases": ("nowhere",), "base_kinds": ("x",)}, "nowhere"),
    ],
)
def test_bases_that_cannot_be_had_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        load_spoken(tiny_config(**{"seeds": (0,), **changes}))


def test_every_seed_may_have_a_base_of_its_own():
    shipped = "experiments/bases/gp_small"
    config = tiny_config(seeds=(3, 4), bases=(shipped, shipped), base_kinds=("one", "two"))
    spoken = load_spoken(config)
    assert [spoken.base[seed].about["kind"] for seed in (3, 4)] == ["one", "two"]
    assert spoken.base[3].policy is spoken.base[4].policy is spoken.policy
    study = studies.make_study(config, spoken)
    assert {run.hyperparameters["base_kind"] for run in study.runs if run.seed == 4} == {"two"}
