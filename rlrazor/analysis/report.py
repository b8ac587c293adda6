"""The report: one self-contained page that answers, shows and says how sure it is.

`make_page` returns the page, `make_report` all files as bytes, `write_report` puts them in a
folder: report.html needs none of the others and no network; figures/ holds each figure as SVG and
PNG. Each takes the results of one study, or several studies by name, whose verdicts then stand in
one list and whose chapters follow study by study. All text from results is escaped, so an arm
called "<script>" is an arm with an odd name.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from rlrazor.analysis import opening, sections, tables
from rlrazor.analysis.figures import bars
from rlrazor.analysis.gain import swept
from rlrazor.analysis.gain_sections import gain_section
from rlrazor.analysis.hover import png, prefix_ids
from rlrazor.analysis.legacy import PARITY
from rlrazor.analysis.predictors import PREDICTORS, measured
from rlrazor.analysis.results import Results, main_base, main_variant
from rlrazor.analysis.sections import Absent, Part, Picture, Section
from rlrazor.analysis.shift_sections import shift_sections
from rlrazor.analysis.statistics import RESAMPLES
from rlrazor.analysis.style import Styles, arm_styles
from rlrazor.analysis.trajectory import Trajectory
from rlrazor.analysis.verdicts import FAILS, HOLDS, Verdict, left_out, verdicts
from rlrazor.lines import KL

TITLE = "Does RL forget less, and does KL say how much?"
SHIFT_TITLE = "Does RL generalize, does it forget less, and does KL say how much?"
TESTED = {  # column -> what to say where it was not measured
    "gain": "The new task was not tested: no line has new/accuracy beside new/base_accuracy. A "
    "test file makes it known.",
    "forgetting": "Prior tasks were not tested: no line has prior/accuracy beside "
    "prior/base_accuracy. Forgetting is not known.",
    KL: f"KL(base‖policy) on the new task was not measured: no line has a finite {KL}.",
}
OPTIONAL = ("predictors", "flips", "trajectory")  # only the parity study set out to have these
NO_TRAJECTORY = "No trajectory.jsonl beside the results: no run was measured step by step."


@dataclass(frozen=True, eq=False)
class Study:
    """What one study left behind, and what stands beside it."""

    results: Results
    trajectory: Trajectory | None = None
    run: Mapping[str, Any] | None = None  # run.json: config, commit, versions, command
    found: Sequence[Verdict] | None = None  # verdicts(results), if already computed


def make_report(results: Results | Mapping[str, Study], **options: Any) -> dict[str, bytes]:
    """Files by relative path: report.html, figures/<name>.svg, figures/<name>.png."""
    html, pictures = make_page(results, **options)
    files = {"report.html": html.encode()}
    for picture in pictures:
        files[f"figures/{picture.name}.svg"] = picture.standalone.encode()
        files[f"figures/{picture.name}.png"] = png(picture.figure)
    return files


def make_page(
    results: Results | Mapping[str, Study],
    *,
    found: Sequence[Verdict] | None = None,  # these three: as in Study, and for one study only
    trajectory: Trajectory | None = None,
    run: Mapping[str, Any] | None = None,
    resamples: int = RESAMPLES,
    title: str = TITLE,  # where another rule was tested, SHIFT_TITLE stands for it
) -> tuple[str, list[Picture]]:
    """The page, which holds its figures, and the figures.

    One study alone has no heading of its own, named or not. Of several, each figure's name begins
    with its study's.
    """
    if isinstance(results, Results):
        studies: Mapping[str, Study] = {"": Study(results, trajectory, run, found)}
    elif not results:
        raise ValueError("no study to report on; give at least one")
    elif not (found is None and trajectory is None and run is None):
        raise ValueError("found, trajectory and run belong in each Study where studies have names")
    else:
        studies = results
    shifted = any(study.results.shifts for study in studies.values())
    shown = [
        _shown(name, prefix, study, resamples)
        for (name, study), prefix in zip(studies.items(), _prefixes(list(studies)), strict=True)
    ]
    html = _template().render(
        title=SHIFT_TITLE if shifted and title == TITLE else title,
        subtitle=_overview(studies) if len(shown) > 1 else shown[0].subtitle,
        first=next((s for s in shown if s.shifted), shown[0]),
        studies=shown,
    )
    # A file cannot hold a lone surrogate, and JSON can: "\\ud800" in somebody's run name.
    html = html.encode("utf-8", "replace").decode()
    parts = [
        part
        for study in shown
        for part in (study.opening, *(part for s in study.sections for part in s.parts))
    ]
    return html, [part for part in parts if isinstance(part, Picture)]


def write_report(results: Results | Mapping[str, Study], out: str | Path, **options: Any) -> Path:
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


@dataclass(frozen=True)
class _Shown:
    """A study as the template reads it."""

    name: str
    prefix: str  # of its ids and figures
    subtitle: str
    shifted: bool
    opening: Part  # Picture or Absent
    sentences: list[dict[str, str]]
    brackets: str
    verdicts: list[dict[str, str]]
    missing_answer: str
    sections: list[Section]
    facts: list[tuple[str, str]]
    records: list[tuple[str, str]]


def _shown(name: str, prefix: str, study: Study, resamples: int) -> _Shown:
    results = study.results
    main = main_base(results)
    styles = arm_styles(results)
    chapters = _chapters(study, main, styles, resamples)
    answer: Sequence[Verdict] | Absent = (
        sections.attempt(lambda: verdicts(results, resamples=resamples))
        if study.found is None
        else study.found
    )
    missing = isinstance(answer, Absent)
    found = () if missing else answer
    shown = Section("opening", "", (), (_opening(main, styles, resamples),))
    (first,) = _prefixed(shown, prefix).parts
    facts, records = _provenance(study.run or {})
    return _Shown(
        name,
        prefix,
        _subtitle(results, main) + _left_out_text(left_out(main)),
        bool(results.shifts),
        first,
        [_sentence(sentence) for sentence in opening.sentences(main, found)],
        opening.brackets(found),
        [_answer(verdict) for verdict in found],
        answer.reason if missing else "",
        [_prefixed(chapter, prefix) for chapter in chapters],
        facts,
        records,
    )


def _chapters(study: Study, main: Results, styles: Styles, resamples: int) -> list[Section]:
    results = study.results
    plain = main_variant(main)
    shifted = bool(results.shifts)
    predictors = measured(plain) if shifted else PREDICTORS
    lacking = {column: what for column, what in TESTED.items() if not plain.has(column)}
    made: list[tuple[Callable[[], Section], tuple[str, ...]]] = [
        (lambda: sections.law_section(plain, styles, resamples), ("forgetting", KL)),
        (lambda: sections.predictor_section(plain, resamples, predictors), ("forgetting",)),
        (lambda: sections.frontier_section(plain, styles), ("forgetting", "gain")),
        (lambda: sections.flip_section(main_variant(results), styles), ("forgetting", "gain")),
    ]
    chapters = [
        *(make() for make, needs in made if not lacking.keys() & set(needs)),
        *([_missing(lacking.values())] if lacking else []),
        sections.trajectory_section(study.trajectory, styles, NO_TRAJECTORY),
    ]
    if shifted or results.study != PARITY:
        chapters = list(filter(_wanted, chapters))
    if shifted:
        chapters = [*shift_sections(main, styles, resamples), *chapters]
    if shifted and swept(main_variant(results)):
        chapters = [gain_section(main_variant(results), styles), *chapters]
    if not shifted and "forgetting" in lacking and "gain" not in lacking:
        chapters = [sections.learnt_section(plain, styles), *chapters]
    return [*chapters, sections.data_section(results, styles)]


def _missing(lacking: Iterable[str]) -> Section:
    """The chapter in the place of those that need what was not measured."""
    return Section(
        "missing",
        "What was not measured",
        ("Chapters that need one of these are left out.",),
        tuple(Absent(text) for text in lacking),
    )


def _opening(main: Results, styles: Styles, resamples: int) -> Part:
    caption = (
        "Last checkpoints, means over seeds with 95 % intervals. Filled marks learn from reward, "
        "hollow marks imitate. "
        if main.shifts
        else "Forgetting against KL at every checkpoint. Filled marks learn from reward, hollow "
        "marks imitate. "
        if main_variant(main).has("forgetting", KL)
        else "Success on the new task, means over seeds with 95 % bands. "
    )
    return sections.picture(
        "opening",
        lambda width, limit: opening.opening_figure(
            main, styles, resamples=min(resamples, 200), width=width, limit=limit
        ),
        caption + sections.support(main_variant(main)),
    )


def _sentence(sentence: opening.Sentence) -> dict[str, str]:
    css = opening.CSS.get(sentence.word, "undecided")
    return {
        "question": sentence.question,
        "css": css,
        "word": sentence.word,
        "text": sentence.text,
    }


def _prefixed(chapter: Section, prefix: str) -> Section:
    """The chapter under ids and file names that no other study's chapter has."""
    parts = tuple(
        replace(
            part,
            name=prefix + part.name,
            wide=prefix_ids(part.wide, prefix),
            narrow=prefix_ids(part.narrow, prefix),
        )
        if isinstance(part, Picture) and prefix
        else part
        for part in chapter.parts
    )
    return replace(chapter, key=prefix + chapter.key, parts=parts)


def _prefixes(names: Sequence[str]) -> list[str]:
    """One a study: short, fit for ids and files, different even where upper case is lower case.

    No hyphen but the last: chapters and figures have none, so no two of the page's ids are equal.
    """
    if len(names) == 1:
        return [""]
    taken: list[str] = []
    for name in names:
        word = re.sub(r"[^a-z0-9]+", "_", name.lower())[:40].strip("_") or "study"
        others = (f"{word}_{n}" for n in range(2, len(names) + 1))
        taken.append(next(free for free in (word, *others) if free not in taken))
    return [f"{word}-" for word in taken]


def _overview(studies: Mapping[str, Study]) -> str:
    each = (f"{name}: {_size(study.results)}" for name, study in studies.items())
    return f"{len(studies)} studies. {' '.join(each)}"


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
    text = _size(results)
    if main.n_runs < results.n_runs:
        text += (
            f" Answers use the base strength that most runs start from ({main.n_runs:,} runs); "
            "the map of flips uses all."
        )
    return text


def _left_out_text(absent: Mapping[str, str]) -> str:
    """The claims left out for want of methods or measurements, in one sentence."""
    needs: dict[str, list[str]] = {}
    for key, what in absent.items():
        needs.setdefault(what, []).append(key.replace("_", " "))
    listed = "; ".join(
        f"{', '.join(keys)} (need{'s' * (len(keys) == 1)} {what})" for what, keys in needs.items()
    )
    return f" Claims left out: {listed}." if listed else ""


def _size(results: Results) -> str:
    return f"{len(results.arms)} methods, {sections.support(results)}"


def _answer(verdict: Verdict) -> dict[str, str]:
    symbol, css = {HOLDS: ("✓", "holds"), FAILS: ("✗", "fails")}.get(
        verdict.word, ("?", "undecided")
    )
    seeds = f"{verdict.n_seeds} seed{'s' * (verdict.n_seeds != 1)}"
    return {
        "symbol": symbol,
        "css": css,
        "word": verdict.word,
        "claim": bars(verdict.claim),
        "sentence": bars(verdict.sentence),
        "paper": bars(verdict.paper),
        "ours": tables.measured(verdict) + tables.coverage_text(verdict.ours),
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
