"""The report: one self-contained page that answers, shows and says how sure it is.

`make_page` returns the page, `make_report` all files as bytes, `write_report` puts them in a
folder: report.html needs none of the others and no network; figures/ holds each figure as SVG and
PNG. All text from results is escaped, so an arm called "<script>" is an arm with an odd name.
"""

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from rlrazor.analysis import sections, tables
from rlrazor.analysis.figures import bars
from rlrazor.analysis.hover import png
from rlrazor.analysis.predictors import PREDICTORS, measured
from rlrazor.analysis.results import Results, main_base, main_variant
from rlrazor.analysis.sections import Absent, Picture, Section
from rlrazor.analysis.shift_sections import shift_sections, untested_text
from rlrazor.analysis.statistics import LEVEL, RESAMPLES
from rlrazor.analysis.trajectory import Trajectory
from rlrazor.analysis.verdicts import FAILS, HOLDS, Verdict, untested, verdicts

TITLE = "Does RL forget less, and does KL say how much?"
SHIFT_TITLE = "Does RL generalize, does it forget less, and does KL say how much?"
OPTIONAL = ("predictors", "flips", "trajectory")  # a study of another rule need not have these
NO_TRAJECTORY = "No trajectory.jsonl beside the results: no run was measured step by step."


def make_report(results: Results, **options: Any) -> dict[str, bytes]:
    """Files by relative path: report.html, figures/<name>.svg, figures/<name>.png."""
    html, pictures = make_page(results, **options)
    files = {"report.html": html.encode()}
    for picture in pictures:
        files[f"figures/{picture.name}.svg"] = picture.standalone.encode()
        files[f"figures/{picture.name}.png"] = png(picture.figure)
    return files


def make_page(
    results: Results,
    *,
    found: Sequence[Verdict] | None = None,  # verdicts(results), if already computed
    trajectory: Trajectory | None = None,
    run: Mapping[str, Any] | None = None,  # run.json: config, commit, versions, command
    resamples: int = RESAMPLES,
    title: str = TITLE,  # where another rule was tested, SHIFT_TITLE stands for it
) -> tuple[str, list[Picture]]:
    """The page, which holds its figures, and the figures."""
    main = main_base(results)
    plain = main_variant(main)
    answer: Sequence[Verdict] | Absent = (
        sections.attempt(lambda: verdicts(results, resamples=resamples)) if found is None else found
    )
    shifted = "ood/accuracy" in results
    chapters = [
        sections.law_section(plain, resamples),
        sections.predictor_section(plain, resamples, measured(plain) if shifted else PREDICTORS),
        sections.frontier_section(plain),
        sections.flip_section(main_variant(results)),
        sections.trajectory_section(trajectory, NO_TRAJECTORY),
    ]
    if shifted:
        chapters = [*shift_sections(main, resamples), *filter(_wanted, chapters)]
    chapters.append(sections.data_section(results))
    facts, records = _provenance(run or {})
    html = _template().render(
        title=SHIFT_TITLE if shifted and title == TITLE else title,
        subtitle=_subtitle(results, main) + (untested_text(untested(main)) if shifted else ""),
        verdicts=[] if isinstance(answer, Absent) else [_answer(v) for v in answer],
        missing_answer=answer.reason if isinstance(answer, Absent) else "",
        sections=chapters,
        facts=facts,
        records=records,
    )
    # A file cannot hold a lone surrogate, and JSON can: "\\ud800" in somebody's run name.
    html = html.encode("utf-8", "replace").decode()
    return html, [p for chapter in chapters for p in chapter.parts if isinstance(p, Picture)]


def write_report(results: Results, out: str | Path, **options: Any) -> Path:
    """Writes make_report's files under `out`; returns the path of report.html.

    Each file is replaced whole, so a reader never sees half a page.
    """
    out = Path(out)
    for name, content in make_report(results, **options).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".tmp")
        draft.write_bytes(content)
        os.replace(draft, path)
    return out / "report.html"


def _template() -> jinja2.Template:
    source = resources.files("rlrazor.analysis").joinpath("templates", "report.html.j2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.from_string(source.read_text(encoding="utf-8"))


def _wanted(chapter: Section) -> bool:
    """Whether a study that did not set out to measure this chapter has some piece of it."""
    return chapter.key not in OPTIONAL or not all(isinstance(p, Absent) for p in chapter.parts)


def _subtitle(results: Results, main: Results) -> str:
    text = f"{len(results.arms)} methods, {sections.support(results)}"
    if main.n_runs < results.n_runs:
        text += (
            f" Answers use the base strength that most runs start from ({main.n_runs:,} runs); "
            "the map of flips uses all."
        )
    return text


def _answer(verdict: Verdict) -> dict[str, str]:
    symbol, css = {HOLDS: ("✓", "holds"), FAILS: ("✗", "fails")}.get(
        verdict.word, ("?", "undecided")
    )
    seeds = f"{verdict.n_seeds} seed{'s' * (verdict.n_seeds != 1)}"
    interval = verdict.ours
    level = f" ({100 * LEVEL:.0f} % interval)" if interval is not None and interval.known else ""
    return {
        "symbol": symbol,
        "css": css,
        "word": verdict.word,
        "claim": bars(verdict.claim),
        "sentence": bars(verdict.sentence),
        "paper": bars(verdict.paper),
        "ours": tables.measured(verdict) + level,
        "quantity": bars(verdict.quantity),
        "support": f"{verdict.n_runs:,} runs, {seeds}"
        + (": no interval" if verdict.n_seeds == 1 else ""),
    }


def _provenance(run: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Splits run.json into single facts and nested records, both as text."""
    facts = [(k, str(v)) for k, v in run.items() if not isinstance(v, Mapping | list | tuple)]
    records = [
        (k, json.dumps(v, indent=2, sort_keys=True, default=str, ensure_ascii=False))
        for k, v in run.items()
        if isinstance(v, Mapping | list | tuple)
    ]
    return facts, records
