"""From results files to the report: what a script or `rr.report(results, out)` calls."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlrazor.analysis.report import TITLE, Study, write_report
from rlrazor.analysis.results import by_base, load_results
from rlrazor.analysis.statistics import RESAMPLES
from rlrazor.analysis.trajectory import Trajectory, load_trajectory
from rlrazor.analysis.verdicts import verdicts
from rlrazor.lines import Family

Files = str | Path | Sequence[str | Path]  # results.jsonl, or a folder that holds one


def build(
    results: Files | Mapping[str, Files],
    out: str | Path,
    *,
    title: str = TITLE,
    resamples: int = RESAMPLES,
    families: Mapping[str, Family] | None = None,
) -> Path:
    """Writes report.html and figures/ below `out`; returns the path of the page.

    Several files of one study are pooled; studies by name stay apart, in one list of verdicts.
    """
    studies = read_studies(results, resamples=resamples, families=families)
    return write_report(studies, out, resamples=resamples, title=title)


def read_studies(
    results: Files | Mapping[str, Files],
    *,
    resamples: int = RESAMPLES,
    families: Mapping[str, Family] | None = None,  # of arms in older files that do not say it
) -> dict[str, Study]:
    """Each study read and judged, with what lies beside its first file.

    Runs from several starting models (`base` in the lines) become one study each: accuracies of
    different models do not belong in one comparison.
    """
    named = results if isinstance(results, Mapping) else {"": results}
    out: dict[str, Study] = {}
    for name, files in named.items():
        paths = _paths(files)
        beside = paths[0].parent
        run = read_run(beside / "run.json")
        trajectory = read_trajectory(beside / "trajectory.jsonl")
        parts = by_base(load_results(paths, families=families))
        for base, part in parts.items():
            whole = len(parts) == 1
            title = name if whole else f"{name}, {base or 'base not named'}".removeprefix(", ")
            mine = trajectory if whole or trajectory is None else trajectory.of_runs(part["run"])
            out[title] = Study(part, mine, run, verdicts(part, resamples=resamples))
    return out


def read_trajectory(path: Path) -> Trajectory | None:
    return load_trajectory(path) if path.exists() else None


def read_run(path: Path) -> dict[str, Any] | None:
    """The record that a workdir keeps of its configuration, commit, versions and command."""
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); mend it or move it away") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__}, not an object; move it away")
    return record


def _paths(files: Files) -> list[Path]:
    given = [files] if isinstance(files, str | Path) else list(files)
    if not given:
        raise ValueError("no results file to report on; give at least one results.jsonl")
    return [path / "results.jsonl" if path.is_dir() else path for path in map(Path, given)]
