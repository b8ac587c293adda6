import jax
import numpy as np
import pytest

from rlrazor.runtime.hardware import Accelerator
from rlrazor.studies import progress
from rlrazor.studies.progress import Progress, timed, timeless
from rlrazor.studies.study import Run
from tests.oracles.events import read_scalars


def run(name="a", **more):
    return Run(
        name, arm="a", method="a", variant="main", family="reward", label="A", seed=0,
        learning_rate=1.0, iterations=10, stops=(10,), steps_per_iteration=5,
        flops_per_iteration=6e12, **more,
    )  # fmt: skip


@pytest.fixture
def start(tmp_path):
    def start(*blocks, done=0, **options):
        made = Progress(
            blocks, tmp_path, tensorboard=True, **{"log_every": 1, "profile": 0, **options}
        )
        made.enter(len(blocks) - 1, done)
        return made

    return start


def scalars(folder, name="a"):
    found = read_scalars(folder / "tensorboard" / name / "steps")
    return {(tag, step): value for tag, step, value in found}


def test_speed_by_hand(start, tmp_path, monkeypatch, capfd):
    """Two iterations of 800 tokens in 4 seconds, on devices that could do 10^13 FLOPs a second."""
    made = Accelerator("made up", 1e13, 1.0, 1.0, 1.0)
    monkeypatch.setattr(progress, "accelerator_of", lambda kind: made)
    shown = start([run()])
    metrics = {"loss": np.float32(0.25), "row_tokens": np.float32(800), "seconds_update": 3.0}
    shown.ended([run()], 2, 4, metrics, 4.0)
    shown.close()
    found, devices = scalars(tmp_path), jax.device_count()
    assert found["train/tokens_per_second_per_device", 20] == pytest.approx(200 / devices)
    assert found["train/mfu", 20] == pytest.approx(2 * 6e12 / 4 / 1e13 / devices)
    assert found["train/loss", 20] == 0.25
    assert found["train/seconds", 20] == 4
    assert "loss=0.25" in capfd.readouterr().err


def test_no_share_of_a_peak_that_is_not_known_and_no_speed_without_tokens(start, tmp_path):
    shown = start([run()])
    shown.ended([run()], 0, 1, {"loss": np.float32(1), "row_tokens": np.float32(8)}, 1.0)
    shown.ended([run()], 1, 2, {"loss": np.float32(1)}, 1.0)
    shown.close()
    tags = {step: {tag for tag, at in scalars(tmp_path) if at == step} for step in (5, 10)}
    assert "train/tokens_per_second_per_device" in tags[5] - tags[10]
    assert "train/mfu" not in tags[5]
    assert tags[10] == {"train/loss", "train/seconds"}


def test_the_bar_counts_the_runs_of_all_blocks(start, capfd):
    shown = start([run("a"), run("b")], [run("c")], done=3)
    shown.ended([run("c")], 3, 4, {}, 1.0)
    shown.say("a word")
    shown.close()
    said = capfd.readouterr().err
    assert "3 runs" in said
    assert "24/30" in said
    assert "a word\n" in said


def test_names_that_tell_the_time():
    assert timeless({"seconds_update": 1.0, "loss": 2.0, "seconds": 3.0}) == {"loss": 2.0}
    found = {}
    with timed(found, "update"):
        pass
    assert found["seconds_update"] >= 0
