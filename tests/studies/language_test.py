"""A study of language policies from its plan to its lines, driven by the one loop."""

import functools
import gc
import weakref

import jax
import numpy as np
import pytest

from rlrazor.lines import check_line
from rlrazor.methods import methods
from rlrazor.runtime.weights import load_weights
from rlrazor.studies import measurements as measure
from rlrazor.studies.drive import drive
from rlrazor.studies.plan import Start
from rlrazor.studies.world import World
from tests.oracles import toy_policy, toy_study
from tests.oracles.toy_study import QUIET, arm, lines_of, task

pytestmark = pytest.mark.usefixtures("quick_compiles")


@functools.cache
def arms():
    """Methods that need nobody, a teacher, and a start: GRPO from half of SFT's run."""
    started = arm("grpo", name="grpo_from_sft", start=Start("sft", 0.5), variant="from_sft")
    return "sft", "grpo", "distilled", started


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    study = toy_study.study(*arms())
    return drive(study, folder, **QUIET), study


def test_every_line_is_of_the_schema_and_every_number_is_one(finished):
    folder, study = finished
    lines = lines_of(folder)
    assert [line["run"] for line in lines if line["final"]] == [run.name for run in study.runs]
    for line in lines:
        check_line(line)
        assert not line["diverged"]
        assert all(v is not None for name, v in line.items() if not name.startswith("train/"))
        assert (line["study"], line["base"]) == ("toy", "toy")
    trained = [line for line in lines if line["step"] > 0]
    assert all(np.isfinite(line["train/loss"]) for line in trained)


def test_the_base_stands_beside_what_was_trained(finished):
    folder, _ = finished
    columns = ("new/accuracy", "shift/sum/accuracy", "prior/accuracy", "prior/one/accuracy")
    for line in lines_of(folder):
        for name in columns:
            place, _, what = name.rpartition("/")
            assert 0 <= line[f"{place}/base_{what}"] <= 1
            if line["step"] == 0 and line["arm"] != "grpo_from_sft":
                assert line[name] == line[f"{place}/base_{what}"]
        untrained = line["step"] == 0 and line["arm"] != "grpo_from_sft"
        assert (abs(line["new/kl_base_policy_nats"]) < 1e-6) == untrained
        assert not [name for name in line if "base_prior" in name or "base_one" in name]
    bases = {line["prior/base_accuracy"] for line in lines_of(folder)}
    assert len(bases) == 1  # one seed, the same questions


def test_a_run_begins_where_the_other_arm_was(finished):
    folder, _ = finished
    by = {(line["arm"], line["step"]): line for line in lines_of(folder)}
    half = next(line for (name, step), line in by.items() if name == "sft" and step > 0)
    start = by["grpo_from_sft", 0]
    for name in ("new/accuracy", "new/kl_base_policy_nats", "prior/kl_base_policy_nats"):
        assert start[name] == pytest.approx(half[name], rel=1e-5)
    assert start["flops_teacher"] == pytest.approx(half["flops"])


def test_only_what_others_need_is_kept(finished):
    folder, study = finished
    kept = {path.name.split("-")[0] for path in (folder / "policies").iterdir()}
    assert kept == {"sft", "grpo"}
    run = next(run for run in study.runs if run.arm == "grpo")
    path = study.path(run, run.iterations)
    loaded = load_weights(path, toy_policy.make(0))
    study.loaded.cache_clear()
    teacher = study.given([next(r for r in study.runs if r.arm == "distilled")]).teacher
    jax.tree.map(np.testing.assert_array_equal, loaded, jax.device_get(teacher))


def test_run_again_it_ends_with_the_same_bytes(finished, tmp_path):
    folder, _ = finished
    again = drive(toy_study.study(*arms()), tmp_path / "run", **QUIET)
    for name in ("results.jsonl", *(f"policies/{p.name}" for p in (folder / "policies").iterdir())):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_four_devices_end_with_the_numbers_of_one(tmp_path):
    """Adam's first steps are signs; at a small rate what rounding turns around stays small."""
    quiet = [arm(n, learning_rates=(1e-3,)) for n in ("sft", "grpo")]
    shared = [
        arm(n, learning_rates=(1e-3,), world=toy_study.world(4)) for n in ("sft", "grpo")
    ]  # fmt: skip
    one = lines_of(drive(toy_study.study(*quiet), tmp_path / "one", **QUIET))
    four = lines_of(drive(toy_study.study(*shared, devices=4), tmp_path / "four", **QUIET))
    for a, b in zip(one, four, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if isinstance(value, float):
                assert b[name] == pytest.approx(value, rel=0.02, abs=2e-3), name
            else:
                assert b[name] == value, name


def test_a_changed_study_does_not_go_on_in_the_same_folder(finished):
    folder, _ = finished
    changed = toy_study.study("sft", arm("grpo", turns=2))
    with pytest.raises(ValueError, match="was made with another config"):
        drive(changed, folder, **QUIET)


def test_some_measurements_are_of_some_arms_and_of_the_end():
    policy = toy_study.policy()
    last = measure.within_turns(
        policy, "new", task(), examples=4, turns=(1, 2), when="last", arms=("grpo",)
    )
    world = World(toy_study.on_device(), [last])
    study = toy_study.study(*(arm(name, world=world) for name in ("sft", "grpo")))
    assert study.measurements(study.arms["sft"]) == []
    run = next(run for run in study.runs if run.arm == "grpo")
    state = study.begin((run,))
    (first,), (end,) = study.measure((run,), state, 1), study.measure((run,), state, run.iterations)
    assert "new/success_within_2" not in first
    assert end["new/success_within_2"] == end["new/base_success_within_2"]
    assert first["new/base_success_within_1"] == end["new/base_success_within_1"]


def test_a_study_holds_the_programs_of_one_arm():
    """On a CPU some 40 arms' take all memory maps that Linux gives a process, and XLA crashes."""
    study = toy_study.study("sft", "grpo")
    first = weakref.ref(study.programs("sft", 1)[0])
    assert first() is study.programs("sft", 1)[0]
    study.programs("grpo", 1)
    gc.collect()
    assert first() is None


def test_a_method_of_ones_own_is_as_good_as_any():
    own = methods.grpo.tuned(clip_high=0.3)
    study = toy_study.study(arm("grpo", name="mine", method=own))
    (run,) = study.runs
    assert (run.name.rpartition("-")[0], run.label) == ("mine-lr0.05-s0", "GRPO")
