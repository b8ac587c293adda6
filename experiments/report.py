"""Rebuilds the report from results, ours or anybody's.

    python experiments/report.py --results=runs/parity/results.jsonl --out=runs/parity
    python experiments/report.py --results=a.jsonl,b.jsonl --out=build/both

Reads `trajectory.jsonl` and `run.json` beside the first results file if they are there. Writes
report.html, which needs nothing else, and figures/ with each figure as SVG and PNG. The columns a
results file must have are listed in rlrazor/analysis/results.py.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from rlrazor.analysis.report import TITLE, write_report
from rlrazor.analysis.results import load_results
from rlrazor.analysis.statistics import RESAMPLES
from rlrazor.analysis.tables import answer_text
from rlrazor.analysis.trajectory import Trajectory, load_trajectory
from rlrazor.analysis.verdicts import verdicts

RESULTS = flags.DEFINE_list("results", None, "results.jsonl files, separated by commas.")
OUT = flags.DEFINE_string("out", None, "Folder for report.html and figures/.")
HEADLINE = flags.DEFINE_string("title", TITLE, "Heading of the report.")
RESAMPLE = flags.DEFINE_integer(
    "resamples", RESAMPLES, "Bootstrap resamples of the seeds.", lower_bound=1
)


def build(
    results_paths: list[Path], out: Path, *, title: str = TITLE, resamples: int = RESAMPLES
) -> tuple[str, Path]:
    """Returns the answer for the terminal and the path of the page."""
    results = load_results(results_paths)
    found = verdicts(results, resamples=resamples)
    beside = results_paths[0].parent
    page = write_report(
        results,
        out,
        found=found,
        trajectory=read_trajectory(beside / "trajectory.jsonl"),
        run=read_run(beside / "run.json"),
        resamples=resamples,
        title=title,
    )
    return answer_text(found), page


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


def main(argv: list[str]) -> None:
    del argv
    answer, page = build(
        [Path(path) for path in RESULTS.value or ()],
        Path(OUT.value or "."),
        title=HEADLINE.value,
        resamples=RESAMPLE.value,
    )
    print(answer)
    print(f"\n{page}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["results", "out"])
    cli.run(main)
