"""From files to a page, without a script."""

import json

import numpy as np
import pytest

from rlrazor.analysis import building
from rlrazor.analysis.trajectory import COSINE, KL_CHANGE
from tests.oracles import schema2, synthetic_results

TINY = {"arms": ("sft1", "grpo"), "seeds": 2, "learning_rates": (1e-5, 1e-3), "checkpoints": 2}


@pytest.fixture
def studies(monkeypatch):
    """The studies that would have been drawn, which is what takes the time."""
    drawn = []

    def write(studies, out, **options):
        drawn.append((studies, options))
        return out / "report.html"

    monkeypatch.setattr(building, "write_report", write)
    return drawn


def test_a_file_a_folder_or_several(tmp_path, studies):
    path = synthetic_results.write(tmp_path / "results.jsonl", **TINY)
    for given in (path, str(path), tmp_path, [path], {"": [path]}):
        assert (
            building.build(given, tmp_path, resamples=9, title="mine") == tmp_path / "report.html"
        )
        (found, options) = studies.pop()
        assert list(found) == [""]
        assert len(found[""].found) == 8
        assert options == {"title": "mine", "resamples": 9}
    with pytest.raises(ValueError, match=r"give at least one results\.jsonl"):
        building.build([], tmp_path)


def test_families_of_older_files(tmp_path, studies):
    lines = synthetic_results.lines(**TINY)
    for line in lines:
        line["arm"] = {"sft1": "a", "grpo": "b"}[line["arm"]]
    path = schema2.write(tmp_path / "r.jsonl", lines)
    building.build(path, tmp_path, resamples=9, families={"a": "outside", "b": "reward"})
    results = studies[0][0][""].results
    assert (results.rl, results.sft) == (("b",), ("a",))


def test_each_starting_model_is_a_study(tmp_path, studies):
    lines = []
    for base in ("small", "large"):
        for line in schema2.rewritten(synthetic_results.lines(**TINY)):
            lines.append(line | {"base": base, "run": f"{line['run']}-{base}"})
    path = schema2.write(tmp_path / "results.jsonl", lines)
    steps = [
        {"run": lines[0]["run"], "arm": "grpo", "seed": 0, "step": i, COSINE: 0.1, KL_CHANGE: 0.1}
        for i in range(3)
    ]
    schema2.write(tmp_path / "trajectory.jsonl", steps)
    (tmp_path / "run.json").write_text(json.dumps({"command": "x"}))
    found = building.read_studies({"mine": path}, resamples=9)
    assert list(found) == ["mine, small", "mine, large"]
    assert [len(s.trajectory) for s in found.values()] == [3, 0]
    assert all(s.run == {"command": "x"} for s in found.values())
    numbers = [[v.ours.estimate if v.ours else np.nan for v in s.found] for s in found.values()]
    np.testing.assert_array_equal(*numbers)
    assert list(building.read_studies(path, resamples=9)) == ["small", "large"]
