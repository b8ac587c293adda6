"""One study or several, from the command line to the page."""

import json
import re
from pathlib import Path

import pytest

from experiments import report
from rlrazor.analysis.trajectory import COSINE, KL_CHANGE
from tests.oracles import synthetic_results, synthetic_shift
from tests.oracles.scripts import ROOT, Script

TINY = {"arms": ("sft1", "grpo"), "seeds": 2, "learning_rates": (1e-5, 1e-3), "checkpoints": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two studies: digits with all that may lie beside its results, points with nothing."""
    folder = tmp_path_factory.mktemp("studies")
    digits, points = folder / "digits" / "results.jsonl", folder / "points" / "results.jsonl"
    digits.parent.mkdir()
    points.parent.mkdir()
    synthetic_results.write(digits, **TINY)
    synthetic_shift.write(points, methods=("sft", "grpo"), extras=(), checkpoints=2)
    (digits.parent / "run.json").write_text('{"command": "python one.py"}')
    step = {"run": "r", "arm": "grpo", "seed": 0, "step": 1, COSINE: 0.5, KL_CHANGE: 0.1}
    (digits.parent / "trajectory.jsonl").write_text(json.dumps(step) + "\n")
    return {"digits": digits, "points": points}


@pytest.fixture
def pages(monkeypatch):
    """The studies that would have been drawn, which is what takes the time."""
    drawn = []

    def write(studies, out, **options):
        drawn.append((studies, options))
        return out / "report.html"

    monkeypatch.setattr(report, "write_report", write)
    return drawn


def test_one_study_has_no_column_for_its_name(files, pages, tmp_path):
    answer, page = report.build([files["digits"]], tmp_path, title="mine", resamples=9)
    assert page == tmp_path / "report.html"
    assert answer.startswith("claim ")
    ((studies, options),) = pages
    (study,) = studies.values()
    assert study.run == {"command": "python one.py"}
    assert len(study.trajectory) == 1
    assert options == {"title": "mine", "resamples": 9}


def test_several_studies_stay_apart_and_each_verdict_says_whose(files, pages, tmp_path):
    answer, _ = report.build({k: [v] for k, v in files.items()}, tmp_path, resamples=9)
    assert answer.startswith("study ")
    words = re.findall(r"^(digits|points) .* (?:holds|undecided|does not hold) ", answer, re.M)
    ((studies, _),) = pages
    assert list(studies) == ["digits", "points"]
    assert words == [name for name, study in studies.items() for _ in study.found]
    assert studies["points"].run is None
    assert studies["points"].trajectory is None
    assert len(studies["digits"].found) == 8
    alone, _ = report.build([files["points"]], tmp_path, resamples=9)
    assert alone.count("holds") == answer[answer.index("\npoints") :].count("holds")


def test_several_files_of_one_study_are_pooled(files, pages, tmp_path):
    more = synthetic_results.write(tmp_path / "more.jsonl", **(TINY | {"arms": ("dft",)}))
    report.build({"both": [files["digits"], more]}, tmp_path, resamples=9)
    assert pages[0][0]["both"].results.arms == ("grpo", "sft1", "dft")


def test_the_files_of_each_study():
    assert report.chosen(["a", "b"], None) == {"": [Path("a"), Path("b")]}
    assert report.chosen(None, ["x=a,b", "the other=c=d"]) == {
        "x": [Path("a"), Path("b")],
        "the other": [Path("c=d")],
    }


@pytest.mark.parametrize(
    ("results", "study", "sentence"),
    [
        (None, None, r"give --results=FILE\[,FILE\] for one study or --study=NAME=FILE"),
        ([], [], "give --results"),
        (["a"], ["b=c"], "for each of several, not both"),
        (None, ["a.jsonl"], "--study=a.jsonl must be --study=NAME=results.jsonl"),
        (None, ["=a.jsonl"], "--study==a.jsonl must be"),
        (None, ["x="], "--study=x= must be"),
        (None, ["x=,"], "--study=x=, must be"),
        (None, ["x=a", "y=b", "x=c"], "--study=x=... is given twice; join the files"),
    ],
)
def test_a_mistaken_choice_of_studies(results, study, sentence):
    with pytest.raises(ValueError, match=sentence):
        report.chosen(results, study)


def test_families_from_the_command_line():
    assert report.families(["my_rl:reward", "a:b:near"]) == {"my_rl": "reward", "a:b": "near"}
    assert report.families(None) == {}
    for text in ("my_rl", ":reward", "my_rl:rl"):
        with pytest.raises(ValueError, match=rf"--family={text} must be --family=ARM:FAMILY"):
            report.families([text])


def test_the_command(files, tmp_path):
    out = tmp_path / "out"
    studies = [f"--study={name}={path}" for name, path in files.items()]
    ended = Script(
        "report.py", *studies, f"--out={out}", "--resamples=9", folder=tmp_path, cache=None
    ).wait()
    assert ended.status == 0, ended.stderr
    assert ended.stdout.startswith("study ")
    assert ended.stdout.strip().endswith(str(out / "report.html"))
    names = {path.name.split("-")[0] for path in (out / "figures").iterdir()}
    assert names == {"digits", "points"}
    assert "python one.py" in (out / "report.html").read_text(encoding="utf-8")


def test_mistakes_at_the_command_are_one_sentence(files, tmp_path):
    for arguments, sentence in {
        (f"--study=x={ROOT / 'nowhere.jsonl'}",): "error: no results at ",
        (f"--study={files['digits']}",): "must be --study=NAME=results.jsonl",
        (): "error: give --results=FILE",
    }.items():
        ended = Script(
            "report.py", *arguments, f"--out={tmp_path}/out", folder=tmp_path, cache=None
        ).wait()
        assert ended.status == 2
        assert sentence in ended.sentence
        assert not (tmp_path / "out").exists()
