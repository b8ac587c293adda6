import json

import pytest

from rlrazor.runtime.metrics import write_tensorboard
from tests.oracles.events import read_scalars


def line(run, step, value, **more):
    return {"run": run, "arm": "sft1", "step": step, "new/accuracy": value, "flops": 1.0, **more}


def test_every_number_with_a_slash_becomes_a_scalar_at_its_step(tmp_path):
    lines = [
        line("a", 5, 0.25, **{"weights/rank": 3, "prior/name": "fashion", "prior/cka": None}),
        line("b", 5, 0.75),
        line("a", 10, 0.5),
    ]
    write_tensorboard(lines, tmp_path)
    assert read_scalars(tmp_path / "a") == [
        ("new/accuracy", 5, 0.25),
        ("weights/rank", 5, 3.0),
        ("new/accuracy", 10, 0.5),
    ]
    assert read_scalars(tmp_path / "b") == [("new/accuracy", 5, 0.75)]


def test_writing_again_replaces_the_run_and_leaves_others(tmp_path):
    write_tensorboard([line("a", 5, 0.25), line("b", 5, 0.5)], tmp_path)
    for path in tmp_path.glob("*/events.*"):  # named by the second: as if that were long ago
        path.rename(path.with_name("events.out.tfevents.1"))
    write_tensorboard([line("a", 5, 0.25), line("a", 6, 0.125)], tmp_path)
    assert read_scalars(tmp_path / "a") == [("new/accuracy", 5, 0.25), ("new/accuracy", 6, 0.125)]
    assert read_scalars(tmp_path / "b") == [("new/accuracy", 5, 0.5)]


@pytest.mark.parametrize("lines", [[], [json.loads('{"run": "a", "step": 1}')]])
def test_nothing_to_draw_is_no_error(tmp_path, lines):
    write_tensorboard(lines, tmp_path)
    assert read_scalars(tmp_path / "a") == []
