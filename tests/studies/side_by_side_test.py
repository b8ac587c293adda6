"""Runs that one program trains: the numbers of runs that train one after the other."""

import re

import pytest

from rlrazor.policies.policy import Policy
from rlrazor.studies.drive import drive
from tests.oracles import toy_study
from tests.oracles.toy_study import QUIET, arm, lines_of

pytestmark = pytest.mark.usefixtures("quick_compiles")

RATES = (1e-3, 3e-3)


def study(*names, **settings):
    """Two seeds with bases of their own, two rates; the student learns from one of the teachers."""
    arms = [arm(name, learning_rates=RATES) for name in names]
    if "grpo" in names:
        arms.append(arm("distilled", learning_rates=RATES, teacher_rate=3e-3))
    bases = {seed: toy_study.base(seed=seed) for seed in (1, 2)}
    return toy_study.study(*arms, seeds=(1, 2), bases=bases, **settings)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    names = ("sft", "grpo", "ppo")
    return lines_of(drive(study(*names), tmp_path_factory.mktemp("alone") / "run", **QUIET))


def by_place(lines):
    return {(line["run"], line["step"]): line for line in lines}


def check_alike(some, others):
    some, others = by_place(some), by_place(others)
    assert some.keys() == others.keys()
    for place, line in some.items():
        assert line.keys() == others[place].keys()
        for name, value in line.items():
            if isinstance(value, float):
                assert others[place][name] == pytest.approx(value, rel=2e-3, abs=2e-4), name
            else:
                assert others[place][name] == value, name


@pytest.mark.parametrize("size", [4, 3])  # blocks of four, and of three and one
def test_runs_side_by_side_have_the_numbers_of_runs_alone(alone, tmp_path, size):
    together = study("sft", "grpo", "ppo", side_by_side=size)
    lengths = [len(block) for block in together.plan()]
    assert lengths == ([4] * 4 if size == 4 else [3, 1] * 4)
    check_alike(alone, lines_of(drive(together, tmp_path / "run", **QUIET)))


def test_every_seed_starts_from_its_own_base(alone):
    of_base = {(line["seed"], line["base"], line["hyperparameters"]["base_n"]) for line in alone}
    assert of_base == {(1, "toy1", 1), (2, "toy2", 2)}
    names = {line["run"].rpartition("-")[2] for line in alone if line["arm"] == "sft"}
    assert len(names) == 2  # what is learnt depends on the base, and so does the name
    first = {line["seed"]: line["prior/base_accuracy"] for line in alone}
    own = study("sft").of_base(1, "sft")["prior/accuracy"]
    assert first[1] == own


def test_a_killed_block_goes_on_to_the_same_bytes(tmp_path):
    whole = drive(study("sft", side_by_side=4), tmp_path / "whole", **QUIET)

    broken, advances = study("sft", side_by_side=4), []
    advance = broken.advance

    def advancing(*arguments):
        advances.append(1)
        if len(advances) == 2:
            raise KeyboardInterrupt
        return advance(*arguments)

    broken.advance = advancing
    options = {**QUIET, "checkpoint_every_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        drive(broken, tmp_path / "killed", **options)
    again = drive(study("sft", side_by_side=4), tmp_path / "killed", **options)
    assert (whole / "results.jsonl").read_bytes() == (again / "results.jsonl").read_bytes()


def test_what_cannot_be_side_by_side_is_refused():
    class Cut:
        replicated = False

    cut: Policy = Cut()
    setup = toy_study.setup("sft")
    sharded = type(setup)(**{**vars(setup), "policy": cut, "side_by_side": 2})
    assert "side_by_side=1" in toy_study.on_device().refusal(sharded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_rate": None}, "2 learning rates: which one is meant"),
        ({"teacher_rate": 0.5}, "teacher_rate=0.5 must be one of 'grpo'"),
    ],
)
def test_a_student_says_which_teacher(change, message):
    student = arm("distilled", **change)
    with pytest.raises(ValueError, match=re.escape(message)):
        toy_study.study(arm("grpo", learning_rates=RATES), student)


def test_bases_are_alike_and_one_for_every_seed():
    bases = {1: toy_study.base(seed=1)}
    with pytest.raises(ValueError, match=r"seeds \[2\] have no base"):
        toy_study.study(arm("sft"), seeds=(1, 2), bases=bases)
    other = toy_study.base(4, seed=2)
    with pytest.raises(ValueError, match="another policy"):
        toy_study.study(arm("sft"), seeds=(1, 2), bases={**bases, 2: other})
