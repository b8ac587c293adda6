"""Rebuilds the report from results, ours or anybody's.

    python experiments/report.py --results=runs/parity/results.jsonl --out=runs/parity
    python experiments/report.py --results=a.jsonl,b.jsonl --out=build/both
    python experiments/report.py --study=digits=a.jsonl --study=points=b.jsonl,c.jsonl --out=build
    python experiments/report.py --results=mine.jsonl --family=my_rl:reward --out=build

Several files of one study are pooled; several studies stay apart, in one list of verdicts and one
page. Reads `trajectory.jsonl` and `run.json` beside the first results file of a study if they are
there. Writes report.html, which needs nothing else, and figures/ with each figure as SVG and PNG.
What a line of results holds is in rlrazor/lines.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments import cli
from rlrazor.analysis.building import read_studies
from rlrazor.analysis.report import TITLE, write_report
from rlrazor.analysis.statistics import RESAMPLES
from rlrazor.analysis.tables import answer_text
from rlrazor.lines import FAMILIES, FAMILY_MEANINGS, Family

RESULTS = flags.DEFINE_list("results", None, "results.jsonl files of one study, by commas.")
STUDY = flags.DEFINE_multi_string(
    "study", None, "NAME=results.jsonl[,results.jsonl]; once for each of several studies."
)
FAMILY = flags.DEFINE_multi_string(
    "family", None, "ARM:reward, ARM:outside or ARM:near, where lines do not say it; repeatable."
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
    families: Mapping[str, Family] | None = None,
) -> tuple[str, Path]:
    """Returns the answer for the terminal and the path of the page.

    `results_paths` are the files of one study, or those of each study by its name.
    """
    studies = read_studies(results_paths, resamples=resamples, families=families)
    page = write_report(studies, out, resamples=resamples, title=title)
    return answer_text({name: study.found or () for name, study in studies.items()}), page


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


def families(texts: Sequence[str] | None) -> dict[str, Family]:
    """Arm -> family, from each --family."""
    out: dict[str, Family] = {}
    for text in texts or ():
        arm, _, given = text.rpartition(":")
        if not arm or given not in FAMILIES:
            allowed = ", ".join(f"{name} ({what})" for name, what in FAMILY_MEANINGS.items())
            raise ValueError(f"--family={text} must be --family=ARM:FAMILY; families: {allowed}")
        out[arm] = FAMILIES[FAMILIES.index(given)]
    return out


def main(argv: list[str]) -> None:
    del argv
    answer, page = build(
        chosen(RESULTS.value, STUDY.value),
        Path(OUT.value or "."),
        title=HEADLINE.value,
        resamples=RESAMPLE.value,
        families=families(FAMILY.value),
    )
    print(answer)
    print(f"\n{page}")


if __name__ == "__main__":
    flags.mark_flag_as_required("out")
    cli.run(main)
