"""Rebuilds the report from results, ours or anybody's.

    python experiments/report.py --results=runs/parity/results.jsonl --out=runs/parity
    python experiments/report.py --results=a.jsonl,b.jsonl --out=build/both
    python experiments/report.py --study=digits=a.jsonl --study=points=b.jsonl,c.jsonl --out=build

Several files of one study are pooled; several studies stay apart, in one list of verdicts and one
page. Reads `trajectory.jsonl` and `run.json` beside the first results file of a study if they are
there. Writes report.html, which needs nothing else, and figures/ with each figure as SVG and PNG.
The columns a results file must have are listed in rlrazor/analysis/results.py.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from rlrazor.analysis.report import TITLE, Study, write_report
from rlrazor.analysis.results import load_results
from rlrazor.analysis.statistics import RESAMPLES
from rlrazor.analysis.tables import answer_text
from rlrazor.analysis.trajectory import Trajectory, load_trajectory
from rlrazor.analysis.verdicts import verdicts

RESULTS = flags.DEFINE_list("results", None, "results.jsonl files of one study, by commas.")
STUDY = flags.DEFINE_multi_string(
    "study", None, "NAME=results.jsonl[,results.jsonl]; once for each of several studies."
)
OUT = flags.DEFINE_string("out", None, "Folder for report.html and figures/.")
HEADLINE = flags.DEFINE_string("title", TITLE, "Heading of the report.")
RESAMPLE = flags.DEFINE_integer(
    "resamples", RESAMPLES, "Bootstrap resamples of the seeds.", lower_bound=1
)


def build(
    results_paths: Sequence[Path] | Mapping[str, Sequence[Path]],
    out: Path,
    *,
    title: str = TITLE,
    resamples: int = RESAMPLES,
) -> tuple[str, Path]:
    """Returns the answer for the terminal and the path of the page.

    `results_paths` are the files of one study, or those of each study by its name.
    """
    named = results_paths if isinstance(results_paths, Mapping) else {"": results_paths}
    studies = {name: read_study(paths, resamples) for name, paths in named.items()}
    page = write_report(studies, out, resamples=resamples, title=title)
    return answer_text({name: study.found or () for name, study in studies.items()}), page


def read_study(paths: Sequence[Path], resamples: int = RESAMPLES) -> Study:
    """One study's results, all files pooled, judged, with what lies beside the first file."""
    results = load_results(paths)
    beside = paths[0].parent
    return Study(
        results,
        read_trajectory(beside / "trajectory.jsonl"),
        read_run(beside / "run.json"),
        verdicts(results, resamples=resamples),
    )


def chosen(results: Sequence[str] | None, study: Sequence[str] | None) -> dict[str, list[Path]]:
    """The files of each study by its name, from --results or from each --study."""
    if bool(results) == bool(study):
        raise ValueError(
            "give --results=FILE[,FILE] for one study or --study=NAME=FILE[,FILE] for each of "
            f"several{', not both' if study else ''}"
        )
    named = {"": list(map(Path, results or ()))} if results else {}
    for text in study or ():
        name, _, files = text.partition("=")
        paths = [Path(file) for file in files.split(",") if file]
        if not (name.strip() and paths):
            raise ValueError(f"--study={text} must be --study=NAME=results.jsonl[,results.jsonl]")
        if name in named:
            raise ValueError(
                f"--study={name}=... is given twice; join the files of one study by commas, or "
                "choose another name"
            )
        named[name] = paths
    return named


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
        chosen(RESULTS.value, STUDY.value),
        Path(OUT.value or "."),
        title=HEADLINE.value,
        resamples=RESAMPLE.value,
    )
    print(answer)
    print(f"\n{page}")


if __name__ == "__main__":
    flags.mark_flag_as_required("out")
    cli.run(main)
