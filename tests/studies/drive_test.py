"""The one loop on a toy study: killed anywhere, it ends with the same bytes."""

import dataclasses
import json
import math
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.runtime import distributed
from rlrazor.runtime.distributed import STOPPED, Job
from rlrazor.studies import drive as driving
from rlrazor.studies.drive import drive
from rlrazor.studies.lines import lines
from rlrazor.studies.study import Run, check_plan
from tests.oracles.events import read_scalars

NEVER = 1e9  # seconds


class Killed(Exception):  # noqa: N818  # no error: what a test does
    pass


def run(name, iterations, stops, **more):
    return Run(
        name, arm="walk", method="walk", variant="main", family="reward", label="Walk",
        seed=len(name), learning_rate=0.5, iterations=iterations, stops=stops,
        updates_per_iteration=3, steps_per_iteration=2, flops_per_iteration=10.0, flops_before=7.0,
        flops_teacher=5.0, hyperparameters={"rate": 0.5}, **more,
    )  # fmt: skip


PLAN = ([run("a", 3, (0, 2, 3)), run("bb", 3, (0, 2, 3))], [run("ccc", 4, (3, 4))])


class Walk:
    """Each run is a number that walks by the draws of its key; a block goes on from what was kept.

    `calls` counts what the loop asked for; it is killed in the call number `dies_at`, after its
    work.
    """

    title = "walk"

    def __init__(self, plan=PLAN, *, dies_at=None, values=None, record=None):
        self._plan, self.dies_at = plan, dies_at
        self.record = record or {"rate": 0.5}
        self.calls, self.said, self._values = 0, [], values or {}

    def _called(self, *what):
        self.calls += 1
        self.said.append(what)
        if self.calls == self.dies_at:
            raise Killed

    def plan(self):
        return self._plan

    def begin(self, block):
        kept = self.folder / "kept-bb-3"
        start = float(kept.read_text()) if "ccc" in {run.name for run in block} else 0.0
        seeds = [run.seed for run in block]
        state = {
            "x": jnp.full(len(block), start, jnp.float32),
            "key": jax.vmap(jax.random.key)(jnp.array(seeds)),
        }
        self._called("begin", block[0].name)
        return state

    def advance(self, block, state, done):
        draws = jnp.stack([jax.random.normal(jax.random.fold_in(k, done)) for k in state["key"]])
        x = state["x"] + draws
        self._called("advance", block[0].name, done)
        metrics = {"loss": x**2, "constant": jnp.float32(4.0), "seconds_walk": jnp.float32(0.1)}
        if len(block) == 1:
            metrics["row_tokens"] = jnp.float32(100.0)
        return {**state, "x": x}, done + 1, metrics

    def measure(self, block, state, at):
        self._called("measure", block[0].name, at)
        found = [{"new/score": x, "new/count": 4} for x in np.asarray(state["x"])]
        return [
            {**columns, **self._values.get((run.name, at), {})}
            for run, columns in zip(block, found, strict=True)
        ]

    def keep(self, block, state, at):
        for run, x in zip(block, np.asarray(state["x"]), strict=True):
            (self.folder / f"kept-{run.name}-{at}").write_text(str(float(x)))
        self._called("keep", block[0].name, at)


def outcome(folder):
    """All that must be the same after any interruption."""
    files = [folder / "results.jsonl", *sorted(folder.glob("kept-*"))]
    return {path.name: path.read_bytes() for path in files}


def read_lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    study = Walk()
    folder = drive(study, tmp_path_factory.mktemp("whole") / "run")
    return folder, study


def test_the_lines_of_a_study(whole):
    folder, _ = whole
    found = read_lines(folder)
    assert [(line["run"], line["step"], line["final"]) for line in found] == [
        ("a", 0, False), ("bb", 0, False), ("a", 4, False), ("bb", 4, False),
        ("a", 6, True), ("bb", 6, True), ("ccc", 6, False), ("ccc", 8, True),
    ]  # fmt: skip
    line = found[3]
    assert {k: v for k, v in line.items() if "/" not in k} == {
        "schema": 2, "study": "walk", "run": "bb", "arm": "walk", "method": "walk",
        "variant": "main", "family": "reward", "label": "Walk", "seed": 2, "base": "", "step": 4,
        "updates": 6, "final": False, "diverged": False, "flops": 27.0, "flops_teacher": 5.0,
        "hyperparameters": {"rate": 0.5},
    }  # fmt: skip
    assert "train/loss" not in found[0]  # nothing was trained yet
    assert (line["train/constant"], line["new/count"]) == (4.0, 4)
    assert not [name for name in line if "seconds" in name]


def test_train_columns_are_means_since_the_last_line(whole):
    found = read_lines(whole[0])
    key = jax.random.key(2)
    draws = [float(jax.random.normal(jax.random.fold_in(key, n))) for n in range(3)]
    walked = np.cumsum(draws)
    by_step = {line["step"]: line for line in found if line["run"] == "bb"}
    np.testing.assert_allclose(by_step[4]["train/loss"], np.mean(walked[:2] ** 2), rtol=1e-5)
    np.testing.assert_allclose(by_step[6]["train/loss"], walked[2] ** 2, rtol=1e-5)
    np.testing.assert_allclose(by_step[6]["new/score"], walked[2], rtol=1e-5)


def test_nothing_is_done_twice_in_a_study_that_ended(whole, tmp_path):
    folder, study = whole
    before = outcome(folder)
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != "results.jsonl"}
    again = Walk()
    assert drive(again, folder, tensorboard=False) == folder
    assert again.said == [("begin", "ccc")]  # what is restored must have a shape
    drive(Walk(), folder)
    assert outcome(folder) == before
    assert {p: p.stat().st_mtime_ns for p in files} == files
    calls = [said[0] for said in study.said]
    assert [calls.count(name) for name in ("begin", "advance", "measure", "keep")] == [2, 7, 5, 5]


@pytest.mark.parametrize("seconds", [0.0, NEVER], ids=["each saved", "ended blocks saved"])
def test_killed_in_any_call_it_ends_with_the_same_bytes(whole, tmp_path, seconds):
    folder, study = whole
    for dies_at in range(1, study.calls + 1):
        cut = tmp_path / str(dies_at)
        with pytest.raises(Killed):
            drive(Walk(dies_at=dies_at), cut, checkpoint_every_seconds=seconds, tensorboard=False)
        drive(Walk(), cut, checkpoint_every_seconds=seconds, tensorboard=False)
        assert outcome(cut) == outcome(folder), dies_at


def test_killed_again_and_again(whole, tmp_path):
    """Every start does one call more than those before: nothing but time is lost."""
    folder, study = whole
    for dies_at in range(1, 3 * study.calls):
        try:
            drive(Walk(dies_at=dies_at), tmp_path, checkpoint_every_seconds=0.0, tensorboard=False)
        except Killed:
            continue
        break
    else:
        pytest.fail("it never came to its end")
    assert dies_at < study.calls
    assert outcome(tmp_path) == outcome(folder)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_around_any_save(whole, tmp_path, monkeypatch, after):
    save, saves = driving.Checkpoints.save, []
    dies_at = None

    def killed(self, position, *rest):
        saves.append(position)
        if len(saves) == dies_at and not after:
            raise Killed
        save(self, position, *rest)
        if len(saves) == dies_at:
            raise Killed

    monkeypatch.setattr(driving.Checkpoints, "save", killed)
    for dies_at in range(1, 8):
        saves.clear()
        cut = tmp_path / str(dies_at)
        with pytest.raises(Killed):
            drive(Walk(), cut, checkpoint_every_seconds=0.0, tensorboard=False)
        assert saves == [*range(1, dies_at + 1)]
        drive(Walk(), cut, checkpoint_every_seconds=0.0, tensorboard=False)
        assert outcome(cut) == outcome(whole[0])


@dataclasses.dataclass(frozen=True)
class Terminated(Job):
    """A job whose SIGTERM comes at a position."""

    at: int = 0

    def stops_at(self, position):
        return position >= self.at


def test_sigterm_saves_at_once_and_the_same_call_resumes(whole, tmp_path, caplog):
    for at in range(1, 8):
        folder = tmp_path / str(at)

        def start(job, folder=folder):
            study = Walk()
            drive(study, folder, job=job, checkpoint_every_seconds=NEVER, tensorboard=False)
            return study

        if at == 7:  # all is done: nobody needs to come back
            start(Terminated(0, ("here",), threading.Event(), at))
        else:
            with pytest.raises(SystemExit) as ended:
                start(Terminated(0, ("here",), threading.Event(), at))
            assert ended.value.code == STOPPED
            assert f"all is saved up to {at}" in caplog.text
            resumed = start(distributed.ALONE)
            advances = [said for said in resumed.said if said[0] == "advance"]
            assert len(advances) == 7 - at  # no iteration is done twice
        assert outcome(folder) == outcome(whole[0])


def test_a_real_sigterm_is_heeded(tmp_path):
    class Ends(Walk):
        def advance(self, block, state, done):
            if block[0].name == "ccc":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().advance(block, state, done)

    study = Ends()
    with distributed.alone() as job, pytest.raises(SystemExit) as ended:
        drive(study, tmp_path, job=job, checkpoint_every_seconds=NEVER, tensorboard=False)
    assert ended.value.code == STOPPED
    assert study.said[-1] == ("advance", "ccc", 0)


def test_what_is_no_number_is_null_marks_the_run_and_is_said_once(tmp_path, capfd):
    values = {
        ("bb", 2): {"new/score": math.nan},
        ("bb", 3): {"new/score": math.inf},
        ("a", 3): {"weights/rank": math.nan},  # undefined, which is no divergence
        ("ccc", 4): {"shift/rule/accuracy": np.float32(-np.inf)},
    }
    drive(Walk(values=values), tmp_path)
    by_place = {(line["run"], line["step"]): line for line in read_lines(tmp_path)}
    assert [place for place, line in by_place.items() if line["diverged"]] == [
        ("bb", 4), ("bb", 6), ("ccc", 8),
    ]  # fmt: skip
    assert by_place["bb", 4]["new/score"] is by_place["a", 6]["weights/rank"] is None
    assert by_place["ccc", 8]["shift/rule/accuracy"] is None
    said = [line.split("\r")[-1] for line in capfd.readouterr().err.splitlines()]
    assert [line for line in said if "diverged" in line] == [
        "not finite, and marked as diverged, by step 4: bb",
        "not finite, and marked as diverged, by step 8: ccc",
    ]


@pytest.mark.parametrize(
    ("loss", "expected", "diverged"),
    [([6.0, 4], 1.5, False), ([0.0, 0], None, True)],
    ids=["some", "none finite"],
)
def test_a_loss_that_never_was_a_number_is_a_divergence(loss, expected, diverged):
    (line,) = lines("walk", [run("a", 2, (2,))], 2, [{}], [{"loss": loss, "reward": [0.0, 0]}])
    assert (line["train/loss"], line["diverged"]) == (expected, diverged)
    assert line["train/reward"] is None
    json.dumps(line, allow_nan=False)


def test_roles_stand_in_a_line_that_has_some():
    block = [run("a", 2, (2,), roles=""), run("b", 2, (2,), roles="plain")]
    found = lines("walk", block, 2, [{}, {}], [{}, {}])
    assert [line["roles"] for line in found] == ["", "plain"]


def test_tensorboard_has_the_lines_of_all_and_the_way_of_those_who_train_alone(whole):
    board = whole[0] / "tensorboard"
    assert {path.name for path in board.iterdir()} == {"a", "bb", "ccc"}
    for name in ("a", "bb", "ccc"):
        drawn = read_scalars(board / name)
        mine = [line for line in read_lines(whole[0]) if line["run"] == name]
        assert [step for tag, step, _ in drawn if tag == "new/score"] == [
            line["step"] for line in mine
        ]
    assert not (board / "a" / "steps").exists()
    way = read_scalars(board / "ccc" / "steps")
    assert [step for tag, step, _ in way if tag == "train/loss"] == [2, 4, 6, 8]
    assert {"train/tokens_per_second_per_device", "train/seconds_walk"} <= {tag for tag, *_ in way}


def test_few_numbers_of_the_way_where_few_are_wanted(tmp_path):
    drive(Walk([[run("a", 7, (7,))]]), tmp_path, log_every=3)
    way = read_scalars(tmp_path / "tensorboard" / "a" / "steps")
    assert [step for tag, step, _ in way if tag == "train/loss"] == [6, 12, 14]


def test_a_trace_of_some_iterations(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append(path))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append(len(study.said)))
    study = Walk([[run("a", 7, (7,))]])
    drive(study, tmp_path, profile=2, tensorboard=False)
    assert calls == [str(tmp_path / "profile"), 1 + 4]  # a beginning, two that compile, two traced
    calls.clear()
    study = Walk([[run("a", 3, (3,))]])
    drive(study, tmp_path / "short", profile=5, tensorboard=False)
    assert len(calls) == 2  # it ends with the run at the latest


def test_another_record_is_refused_and_an_open_folder_is_not_looked_at(whole, tmp_path):
    drive(Walk([[run("a", 1, (1,))]], record={"rate": 0.5}), tmp_path / "run")
    with pytest.raises(ValueError, match=r"made with another config: rate was 0.5, now 0.25"):
        drive(Walk([[run("a", 1, (1,))]], record={"rate": 0.25}), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    drive(Walk(), tmp_path / "mine", opened=True, tensorboard=False)
    assert outcome(tmp_path / "mine") == outcome(whole[0])
    assert not (tmp_path / "mine" / "run.json").exists()


def test_a_study_that_failed_when_it_began_does_not_claim_the_folder(tmp_path):
    with pytest.raises(Killed):
        drive(Walk(dies_at=1, record={"rate": 1e30}), tmp_path)
    drive(Walk([[run("a", 1, (1,))]], record={"rate": 0.5}), tmp_path)
    with pytest.raises(ValueError, match="made with another config"):
        drive(Walk(record={"rate": 1e30}), tmp_path)


def test_several_iterations_at_a_time_may_not_pass_a_stop(tmp_path):
    class Leaps(Walk):
        by = 2

        def advance(self, block, state, done):
            state, _, metrics = super().advance(block, state, done)
            return state, done + self.by, metrics

    plan = [[run("a", 4, (2, 4))]]
    drive(Leaps(plan), tmp_path / "two", tensorboard=False)
    assert [line["step"] for line in read_lines(tmp_path / "two")] == [4, 8]
    for by in (3, 0):
        Leaps.by = by
        with pytest.raises(ValueError, match=rf"went from 0 to {by} iterations; .* to 2, where"):
            drive(Leaps(plan), tmp_path / str(by), tensorboard=False)


def test_numbers_of_another_shape_are_named(tmp_path):
    class Three(Walk):
        def advance(self, block, state, done):
            state, done, metrics = super().advance(block, state, done)
            return state, done, {**metrics, "reward": jnp.zeros(3)}

    with pytest.raises(ValueError, match=r"'reward' of shape \(3,\); it must be \(\) or \(2,\)"):
        drive(Three(), tmp_path, tensorboard=False)


A = run("a", 3, (0, 3))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "plans no run"),
        ([[A], []], "plans no run, or a block of none"),
        ([[A], [A]], "plans 'a' 2 times"),
        ([[dataclasses.replace(A, name="a/b")]], "'a/b' cannot be the name of a folder"),
        ([[dataclasses.replace(A, name="..")]], "cannot be the name of a folder"),
        ([[dataclasses.replace(A, stops=(3, 1, 3))]], "must grow"),
        ([[dataclasses.replace(A, stops=())]], "must grow"),
        ([[dataclasses.replace(A, stops=(0, 2))]], "measured last at 2 of 3 iterations"),
        ([[A, dataclasses.replace(A, name="b", stops=(3,))]], "a and b of one block"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_driven_is_refused_before_any_work(blocks, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        check_plan(blocks)
    study = Walk(blocks)
    with pytest.raises(ValueError, match=message):
        drive(study, tmp_path, tensorboard=False)
    assert study.calls == 0
