"""Which runs a list of arms asks for: order, matched FLOPs, names, refusals."""

import dataclasses
import itertools

import pytest

from rlrazor.methods import methods
from rlrazor.studies.flops import flops_per_iteration
from rlrazor.studies.language import LanguageStudy
from rlrazor.studies.plan import Arm, Start, check_arms, identity_of, in_order, plan_runs
from rlrazor.studies.programs import Optimization, Setup, Sizes
from rlrazor.studies.world import World
from tests.oracles import toy_study

METHODS = methods.all_methods()
SIZES = Sizes(24, 4, 2)


class Anything:
    """A training whose rows have 10 tokens a turn."""

    def refusal(self, setup):
        return None

    def row_tokens(self, setup):
        return 10 * setup.turns


WORLD = World(Anything(), [])


def arm(name, method=None, **changes):
    how = METHODS[method or name]
    sizes = Sizes(24, 1, 2) if name in toy_study.IMITATION else SIZES
    plain = {"sizes": sizes, "learning_rates": (1e-3,), "teacher": how.teacher, "world": WORLD}
    return Arm(name, how, **{**plain, **changes})


SFT_FIXED = arm("sft_fixed", "sft", fixed=3, variant="fixed")
OVERFIT = arm("grpo_from_overfit", "grpo", start=Start("sft_fixed"), variant="from_overfit")
EARLY = arm("grpo_from_sft", "grpo", start=Start("sft", 0.1))


def cost(arm):
    setup = Setup(toy_study.policy(), arm.method, arm.sizes, Optimization(), arm.turns)
    return flops_per_iteration(setup, weights=1000, tokens=10 * arm.turns)


def planned(*arms, seeds=(0,), iterations=40, reference=None, checkpoints=(0.1, 0.5, 1.0), **more):
    arms = [arm(one) if isinstance(one, str) else one for one in arms]
    return plan_runs(
        arms, seeds, iterations=iterations, reference=reference, cost=cost,
        checkpoints=checkpoints, bases={seed: ("b", {}) for seed in seeds}, record={}, **more,
    )  # fmt: skip


def order(*arms):
    arms = [arm(one) if isinstance(one, str) else one for one in arms]
    return [each.name for each in in_order(check_arms(arms))]


def test_the_order_is_the_users_where_nothing_is_needed():
    assert order("dft", "sft", "grpo") == ["dft", "sft", "grpo"]
    assert order("distilled", "sft", "grpo") == ["grpo", "distilled", "sft"]
    assert order(EARLY, "grpo", "sft") == ["sft", "grpo_from_sft", "grpo"]
    for arms in itertools.permutations(("grpo", SFT_FIXED, OVERFIT, "sdft")):
        found = order(*arms)
        assert found.index("sft_fixed") < found.index("grpo_from_overfit")
        assert len(found) == 4


def test_nothing_is_run_before_what_it_needs():
    runs = planned("distilled", OVERFIT, SFT_FIXED, "grpo", "sft", EARLY, seeds=(0, 1))
    needs = {"distilled": "grpo", "grpo_from_overfit": "sft_fixed", "grpo_from_sft": "sft"}
    done = set()
    for run in runs:
        assert run.arm not in needs or (needs[run.arm], run.seed) in done
        done.add((run.arm, run.seed))
    assert len(done) == 12


def test_every_arm_gets_the_same_flops():
    turns = arm("grpo_turns_3", "grpo", turns=3, sizes=Sizes(8, 4, 2))
    reference = cost(arm("grpo"))
    runs = planned(*METHODS, turns, reference=reference, iterations=40)
    for run in runs:
        one = run.flops_per_iteration
        assert abs(run.iterations * one - 40 * reference) <= one / 2, run.name
    by_arm = {run.arm: run.iterations for run in runs}
    assert by_arm["grpo"] == by_arm["grpo_turns_3"] == 40
    assert by_arm["sft"] == round(40 * 8 / 6)
    assert {run.iterations for run in planned(*METHODS)} == {40}


def test_a_run_pays_for_its_teacher_and_its_start():
    runs = {run.arm: run for run in planned("distilled", OVERFIT, SFT_FIXED, "grpo", "sft", EARLY)}
    whole = {name: run.iterations * run.flops_per_iteration for name, run in runs.items()}
    assert runs["distilled"].flops_teacher == whole["grpo"]
    assert runs["grpo_from_overfit"].flops_teacher == whole["sft_fixed"]
    assert runs["grpo_from_sft"].flops_teacher == pytest.approx(0.1 * whole["sft"])
    assert runs["grpo"].flops_teacher == 0
    odd = [arm("odd", "grpo", start=Start("sft", 0.14)), "sft"]
    runs = {run.arm: run for run in planned(*odd, iterations=40, checkpoints=(0.1, 1.0))}
    assert runs["odd"].flops_teacher == 4 * runs["sft"].flops_per_iteration  # where it was saved


def test_stops_are_shares_of_a_run_from_the_first_to_the_last():
    (run,) = planned("sft", iterations=80, checkpoints=(0.0625, 0.5, 1.0))
    assert run.stops == (0, 5, 40, 80)
    (short,) = planned("sft", iterations=1, checkpoints=(0.0625, 0.5, 1.0))
    assert short.stops == (0, 1)
    (run,) = planned("sft", iterations=53, checkpoints=(0.03, 0.1, 0.3, 1.0))
    assert [run.stop_at(s) for s in (0.001, 0.01, 0.1, 0.15, 0.3, 1.0)] == [2, 2, 5, 5, 16, 53]


@pytest.mark.parametrize(
    ("arms", "more", "message"),
    [
        ((), {}, "there is no arm; give one or more"),
        (("sft", "sft"), {}, "arm 'sft' is there twice"),
        (("distilled",), {}, "arm 'distilled' needs the arm 'grpo' too; add it"),
        ((OVERFIT,), {}, "arm 'grpo_from_overfit' needs the arm 'sft_fixed' too"),
        ((arm("sdft", "distilled", teacher=None),), {}, "learns from a teacher; name the arm"),
        (("distilled", arm("grpo", learning_rates=(1e-3, 1e-4))), {}, "2 learning rates: which"),
        ((arm("sft", learning_rates=()),), {}, "arm 'sft' has no learning rate"),
        ((arm("sft", learning_rates=(1e-3, 1e-3)),), {}, "remove the repeated learning rate"),
        ((arm("grpo", sizes=Sizes(24, 1, 2)),), {}, "samples=1 leaves an answer nothing to be"),
        ((arm("gspo", sizes=Sizes(24, 1, 2)),), {}, "samples=1 leaves an answer nothing to be"),
        ((arm("grpo", sizes=Sizes(22, 4, 2)),), {}, "rows=22 must be a multiple .* try 16"),
        ((arm("grpo", sizes=Sizes(24, 0, 2)),), {}, "samples=0 must be at least 1"),
        (("sft",), {"seeds": ()}, r"seeds=\(\) must be one or more, each once"),
        (("sft",), {"seeds": (1, 1)}, r"seeds=\(1, 1\) must be one or more, each once"),
        (("sft",), {"checkpoints": (0.5,)}, r"checkpoints=\(0.5,\) must be shares of a run up to"),
        (("sft",), {"checkpoints": (0.0, 1.0)}, "must be shares of a run"),
        (("sft",), {"checkpoints": (0.5, 1.5)}, "must be shares of a run"),
        (("sft",), {"checkpoints": ()}, "must be shares of a run"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(arms, more, message):
    with pytest.raises(ValueError, match=message):
        planned(*arms, **more)


def test_one_sample_is_enough_without_a_baseline():
    planned(arm("reinforce", sizes=Sizes(24, 1, 2)), arm("ppo", sizes=Sizes(24, 1, 2)))


def test_arms_that_need_each_other_are_named():
    a = arm("a", "grpo", start=Start("b"))
    b = arm("b", "grpo", start=Start("a"))
    with pytest.raises(ValueError, match=r"arms need each other in a circle: a -> b"):
        planned(a, b)


# A study, whose names tell runs apart.


def study(*arms, **changes):
    return toy_study.study(*arms, **changes)


def test_worlds_refuse_what_they_cannot_give():
    lacks = dataclasses.replace(toy_study.on_device(), expert=None)
    world = World(lacks, [])
    for name in ("sft", "dpo", "sdft"):
        one = toy_study.arm(name, world=world)
        with pytest.raises(ValueError, match=f"arm '{name}': .* the task has no expert"):
            study(one)
    study(toy_study.arm("grpo", world=world))
    shown = toy_study.arm("sdft", turns=2)
    with pytest.raises(ValueError, match="'sdft': SDFT shows a demonstration of one answer"):
        study(shown)


def test_methods_alone_need_a_rate_by_their_name():
    def make(rates):
        return LanguageStudy(
            toy_study.base(), toy_study.world(), [methods.sft, methods.grpo], steps=2,
            learning_rates=rates,
        )  # fmt: skip

    with pytest.raises(ValueError, match="learning_rates lacks 'grpo'; it has sft"):
        make({"sft": [0.1]})
    runs = make({"sft": [0.1], "grpo": [0.1, 0.2]}).runs
    names = [run.name.rpartition("-")[0] for run in runs]
    assert names == ["sft-lr0.1-s0", "grpo-lr0.1-s0", "grpo-lr0.2-s0"]
    assert [run.hyperparameters["samples"] for run in runs] == [1, 8, 8]


def test_names_differ_when_anything_learnt_differs():
    grpo = toy_study.arm("grpo", learning_rates=(0.05, 0.001))
    names = {
        run.name
        for settings in ({"a": 1}, {"a": 2})
        for run in study("sft", grpo, seeds=(0, 1), record=settings).runs
    }
    assert len(names) == 2 * 2 * 3
    assert identity_of({"a": 1, "b": 2}) == identity_of({"b": 2, "a": 1})
    of_grpo = [
        study(toy_study.arm("grpo", **changes), **settings).runs[0].name
        for changes, settings in (
            ({}, {}),
            ({"method": methods.grpo.tuned(clip_low=0.1)}, {}),
            ({"method": methods.grpo.tuned(epochs=2)}, {}),
            ({"sizes": Sizes(24, 3, 2)}, {}),
            ({"turns": 2}, {}),
            ({"fixed": 3}, {}),
            ({}, {"optimization": Optimization(weight_decay=0.1)}),
            ({}, {"steps": 3}),
        )
    ]
    assert len(set(of_grpo)) == len(of_grpo)
    # Close rates too: three figures of a rate are written.
    close = toy_study.arm("sft", learning_rates=(0.001, 0.0010001))
    with pytest.raises(ValueError, match="remove the repeated learning rate"):
        study(close)


def test_the_record_says_all_that_is_learnt():
    plain = study("sft", "grpo").record
    changed = [
        study("sft", "grpo", steps=3),
        study("sft", "grpo", seeds=(1,)),
        study("sft", toy_study.arm("grpo", learning_rates=(0.1,))),
        study("sft", toy_study.arm("grpo", method=methods.grpo.tuned(clip_low=0.1))),
        study("sft", toy_study.arm("grpo", sizes=Sizes(24, 3, 2))),
        study("sft", toy_study.arm("grpo", turns=2)),
        study("sft", toy_study.arm("grpo", fixed=3)),
        study("sft", "grpo", optimization=Optimization(weight_decay=0.1)),
        study("sft", "grpo", checkpoints=(1.0,)),
        study("sft", toy_study.arm("grpo", method=methods.grpo.tuned(epochs=2))),
    ]
    for other in changed:
        assert other.record != plain
    assert study("sft", "grpo").record == plain


def test_hyperparameters_of_a_line_are_those_of_its_run():
    (run,) = study(toy_study.arm("grpo", turns=2, method=methods.grpo.tuned(clip_low=0.1))).runs
    assert run.hyperparameters["turns"] == 2
    assert run.hyperparameters["knobs.clip_low"] == 0.1
    assert run.updates_per_iteration == 2
