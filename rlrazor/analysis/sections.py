"""The chapters of the report: for each question its figures, tables and reading instructions.

A piece that cannot be computed (one seed, one arm, a column that is absent) becomes an `Absent`
that says why, in the place where a reader looks for it. As in verdicts.py, all chapters but the
flips use the base strength that most runs start from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rlrazor.analysis import figures, frontier_figures, papers, shift_tables, tables
from rlrazor.analysis.arm_claims import norm_pair
from rlrazor.analysis.figures import LIMIT, NARROW, WIDE
from rlrazor.analysis.flips import AXES, flip_map
from rlrazor.analysis.frontier import (
    Matched,
    automatic_target,
    compare_arms,
    frontiers,
    matched,
    target_list,
)
from rlrazor.analysis.hover import TippedFigure, both_svgs, inline_svg
from rlrazor.analysis.law import isotonic_law, law_rows, left_out, quadratic_law, within_arms
from rlrazor.analysis.predictors import PREDICTORS, Predictor, predictor_table
from rlrazor.analysis.results import Results
from rlrazor.analysis.style import Styles
from rlrazor.analysis.tables import Table
from rlrazor.analysis.trajectory import Trajectory, step_correlations
from rlrazor.lines import KL

MANY_LIMIT = 1500  # points of a figure with many panels
NARROW_LIMIT = 800  # points of a figure on a phone


@dataclass(frozen=True)
class Absent:
    """What stands where a piece could not be computed."""

    reason: str
    kind: str = "absent"


@dataclass(frozen=True)
class Picture:
    """A figure in the page, and the figure itself for the files beside it."""

    name: str
    figure: TippedFigure  # the wide one
    standalone: str  # its SVG file
    wide: str  # inline SVG
    narrow: str  # inline SVG
    caption: str
    kind: str = "picture"


T = TypeVar("T")
U = TypeVar("U")
Part = Absent | Picture | Table


@dataclass(frozen=True)
class Section:
    """One question: what was asked, then figures and tables in reading order."""

    key: str
    title: str
    text: tuple[str, ...]
    parts: tuple[Part, ...]


def law_section(results: Results, styles: Styles, resamples: int) -> Section:
    """Forgetting against KL: pooled, within each method, and on methods left out."""
    quadratic = attempt(lambda: quadratic_law(results, resamples=resamples))
    isotonic = attempt(lambda: isotonic_law(results, resamples=min(resamples, 200)))
    within = attempt(lambda: within_arms(results, resamples=resamples))
    laws = [law for law in (quadratic, isotonic) if not isinstance(law, Absent)]
    curves = [None if isinstance(law, Absent) else law for law in (quadratic, isotonic)]
    fits = () if isinstance(within, Absent) else within[0]

    def pooled(width: float, limit: int) -> TippedFigure:
        return figures.law_figure(results, *curves, styles=styles, width=width, limit=limit)

    def by_arm(width: float, limit: int) -> TippedFigure:
        most = min(limit, MANY_LIMIT)
        return figures.law_by_arm_figure(
            results, curves[0], fits, styles=styles, width=width, limit=most
        )

    def left_out_by(groups, what: str) -> Part:
        found = attempt(lambda: left_out(results, groups=groups, resamples=resamples))
        if not isinstance(found, Absent) and not found.parts:
            found = Absent("Nothing to predict from: leaving a method out leaves too few rows.")
        return told(found, lambda summary: tables.left_out_table(summary, styles, what))

    return Section(
        "law",
        "Does KL predict forgetting?",
        (
            "Forgetting is the drop of prior-task accuracy since the base. The paper's law says "
            "that it is one curve in KL(base‖policy) on the new task's inputs, whatever the "
            "method. A pooled fit cannot tell one curve from several clouds in a row, so "
            "the law is also judged within each method and on methods left out of the fit.",
        ),
        (
            picture(
                "law",
                pooled,
                f"Forgetting against KL. {_shown(results)} Solid line: quadratic; dashed: the best "
                "non-decreasing (isotonic) curve; both with R² and interval. Filled marks learn "
                "from reward, hollow marks imitate labels.",
            ),
            tables.law_table(laws)
            if laws
            else told(quadratic, lambda law: tables.law_table([law])),
            picture(
                "law_by_method",
                by_arm,
                "The same, one panel a method. Grey line: the pooled quadratic. "
                f"R²: of the method's own quadratic, with interval. {support(results)}",
            ),
            told(within, lambda found: tables.within_table(*found, styles)),
            left_out_by(None, "Predicting a method from all the others"),
            left_out_by(_families(results), "Predicting a whole family from all other methods"),
        ),
    )


def predictor_section(
    results: Results, resamples: int, predictors: Sequence[Predictor] = PREDICTORS
) -> Section:
    """KL against its rivals, beside the paper's numbers in a study that repeats it."""
    beside = ", beside the paper's Table 1 and a public replication (one seed)"
    if not papers.repeats_table_1(results.study):
        predictors = [replace(p, paper_r2=None, replication_r2=None) for p in predictors]
        beside = ""
    table = attempt(lambda: predictor_table(results, predictors, resamples=resamples))

    def draw(width: float, limit: int) -> TippedFigure:
        del limit  # one mark a predictor
        return figures.predictor_figure([] if isinstance(table, Absent) else table, width=width)

    return Section(
        "predictors",
        "Is KL the best predictor?",
        (
            "Every measured change of the policy as the x axis of the same second-degree fit. "
            "Distances on the prior tasks' inputs see where forgetting is scored, so they are a "
            "ceiling more than a rival: one needs the prior task to measure them.",
        ),
        (
            picture(
                "predictors",
                draw,
                f"R² of the pooled quadratic, 95 % interval over seeds{beside}. "
                f"Arrow: the interval runs on. {support(results)}",
            ),
            told(table, tables.predictor_rows),
        ),
    )


def frontier_section(results: Results, styles: Styles) -> Section:
    """What each method keeps as it learns, and the comparison at equal accuracy."""
    found = attempt(lambda: frontiers(results))
    target = attempt(lambda: _target(results))
    entries = target if isinstance(target, Absent) else attempt(lambda: matched(results, target))
    several = attempt(lambda: [matched(results, at) for at in target_list(results)])

    def draw_frontiers(width: float, limit: int) -> TippedFigure:
        del limit
        return frontier_figures.frontier_figure(raised(found), styles, width=width)

    def draw_matched(width: float, limit: int) -> TippedFigure:
        del limit
        return frontier_figures.matched_figure(raised(entries), styles, width=width)

    return Section(
        "frontier",
        "Who forgets less at the same new-task accuracy?",
        (
            "Methods are compared where they are equally good at the new task, since a method "
            "that learns nothing forgets nothing. The matched accuracy is the highest that three "
            "quarters of the methods reach from every base.",
        ),
        (
            picture(
                "frontier",
                draw_frontiers,
                "Learning-forgetting frontiers: the most prior accuracy any checkpoint keeps at a "
                "new-task accuracy or better, mean over seeds with 95 % bands, as far as all seeds "
                f"of the method reach. Grey: the methods of the other panels. {support(results)}",
            ),
            picture(
                "matched",
                draw_matched,
                "Forgetting at matched new-task accuracy, with 95 % intervals over seeds. Large "
                "mark: the best run, chosen in hindsight; bar mark: the typical run. "
                f"{support(results)}",
            ),
            told(entries, lambda e: _matched_table(e, results.sft, styles)),
            told(several, lambda e: tables.targets_table(e, styles) if e else Absent(NO_TARGET)),
        ),
    )


def flip_section(results: Results, styles: Styles) -> Section:
    """Where the claim turns round; uses every base strength."""

    def parts(rl: Sequence[str], axes: Sequence[str], name: str, what: str) -> tuple[Part, ...]:
        flips = attempt(lambda: flip_map(results, rl, results.sft, axes=axes))

        def draw(width: float, limit: int) -> TippedFigure:
            del limit
            return frontier_figures.flip_figure(raised(flips), styles, width=width)

        caption = (
            f"{what} Numbers: RL's forgetting over the best SFT run's at the RL run's own "
            "new-task accuracy, in points. ▼ RL forgets less than even the best SFT run, ▲ "
            "more than even the typical one, ? undecided: in between, or the seeds disagree. Out "
            "of reach: RL is more accurate than every SFT run. "
        )
        note = told(flips, lambda f: f"Intervals of the map above: {what}")
        table = told(
            flips, lambda f: tables.flip_table(f, styles, str(note)) if f.cells else Absent(NO_RL)
        )
        return picture(name, draw, caption + _left_aside(flips) + support(results)), table

    norms = norm_pair(results)
    return Section(
        "flips",
        "Where does “RL forgets less” flip?",
        (
            "Each final RL run is held against SFT runs from the same base, at its own new-task "
            "accuracy. The best SFT run is a hard yardstick, the typical one a soft one; both are "
            "in the table.",
        ),
        (
            *parts(
                norms if all(norms) else results.rl,
                AXES,
                "flips",
                f"{'GRPO' if all(norms) else 'RL'} by advantage normalisation, learning rate and "
                "base strength.",
            ),
            *parts(
                results.of_family("reward"),
                ("arm", "hyperparameters/learning_rate"),
                "flips_by_method",
                "By RL method and learning rate, all bases together.",
            ),
        ),
    )


def trajectory_section(trajectory: Trajectory | None, styles: Styles, reason: str) -> Section:
    """The paper's Figure 10; `reason` says why there is no trajectory."""
    found = Absent(reason) if trajectory is None else trajectory
    correlations = told(found, lambda t: step_correlations(t))

    def draw(width: float, limit: int) -> TippedFigure:
        known = () if isinstance(correlations, Absent) else correlations
        return frontier_figures.trajectory_figure(
            raised(found), styles, known, width=width, limit=min(limit, MANY_LIMIT)
        )

    steps = told(
        found,
        lambda t: (
            f"{len(t)} steps of {len(set(t['run'].tolist()))} runs, {len(set(t['seed']))} "
            f"seed(s); {t.n_excluded} non-finite steps left out."
        ),
    )
    table = told(correlations, lambda c: tables.trajectory_table(c, styles))
    return Section(
        "trajectory",
        "Step by step: what does an update do to the prior task?",
        (
            "A positive cosine means that the update climbs the prior tasks' loss to first order. "
            "The paper reports that such updates are the ones that raise KL (its Figure 10).",
        ),
        (
            picture("trajectory", draw, f"One mark a training step. {steps}"),
            *([] if trajectory is None else [table]),
        ),
    )


def learnt_section(results: Results, styles: Styles) -> Section:
    """Where nothing but the new task was tested."""
    text = "Only the new task was tested: this says what was learnt, and nothing of what it cost."
    table = attempt(lambda: shift_tables.learnt_table(results, styles))
    return Section("learnt", "What was learnt?", (text,), (table,))


def data_section(results: Results, styles: Styles) -> Section:
    """How to read an interval, and what was read."""
    return Section(
        "methods",
        "How to read the numbers",
        (
            "An interval is nominally 95 %: over seeds, whole seeds are resampled for R² and "
            "Student's t is used for means and paired differences. Runs and checkpoints of one "
            "seed share "
            "its data, its test questions and its base, so they are never counted as "
            "independent. Where all seeds share a base, intervals say nothing of other bases. "
            "With one seed there is an estimate and no interval. "
            + f"{tables.nominal(len(results.seeds))}",
            f"Here: {support(results)} “Holds” and “does not hold” need the whole interval on one "
            "side of a threshold; anything else is undecided. The verdicts are not corrected for "
            "each other: of twenty claims about nothing, one is decided. Within a table, p-values "
            "are adjusted for its rows (Benjamini-Hochberg, or Holm where it says so).",
            "Forgetting and its differences are percentage points of accuracy. KL is exact over "
            "the output classes (of an answer in words: over the vocabulary at every token, "
            "summed), in nats, a mean over the new task's test inputs. A scatter shows "
            f"at most {LIMIT:,} points ({MANY_LIMIT:,} in panels, {NARROW_LIMIT:,} on a phone): "
            "each method keeps its share, evenly spaced in the order of KL. Fits use every finite "
            "line after step 0.",
        ),
        (tables.data_table(results, styles),),
    )


def picture(name: str, draw: Callable[[float, int], TippedFigure], caption: str) -> Part:
    """Draws for a page and for a phone."""
    found = attempt(lambda: (draw(WIDE, LIMIT), draw(NARROW, NARROW_LIMIT)))
    if isinstance(found, Absent):
        return found
    page, phone = found
    wide, standalone = both_svgs(page, name=f"{name}-wide", alt=caption)
    narrow = inline_svg(phone, name=f"{name}-narrow", alt=caption)
    return Picture(name, page, standalone, wide, narrow, caption)


def attempt(make: Callable[[], T]) -> T | Absent:
    """The value, or the reason that the analysis gives for having none."""
    try:
        return make()
    except ValueError as error:
        return Absent(f"Not available: {error}.")


def told(value: T | Absent, show: Callable[[T], U]) -> U | Absent:
    """Shows a value; passes on the reason for having none."""
    return value if isinstance(value, Absent) else show(value)


def raised(value: T | Absent) -> T:
    """Turns a reason back into the error that a picture reports in its place."""
    if isinstance(value, Absent):
        raise ValueError(value.reason.removeprefix("Not available: ").removesuffix("."))
    return value


def support(results: Results) -> str:
    """The runs and seeds behind a claim."""
    runs, seeds = results.n_runs, len(results.seeds)
    alone = " One seed: no intervals." if seeds == 1 else ""
    return f"{runs:,} run{'s' * (runs != 1)}, {seeds} seed{'s' * (seeds != 1)}.{alone}"


NO_TARGET = "No accuracy to match at: no method beats every base that it starts from."
NO_RL = "No final checkpoint of an RL run to place in the map."


def _target(results: Results) -> float:
    target = automatic_target(results)
    if target is None:
        raise ValueError(NO_TARGET.removesuffix("."))
    return target


def _matched_table(entries: Sequence[Matched], sft: Sequence[str], styles: Styles) -> Table:
    arms = [entry.arm for entry in entries]
    reference = next((arm for arm in (*sft, *arms) if arm in arms), arms[0])
    return tables.matched_table(entries, compare_arms(entries, reference), styles)


def _families(results: Results) -> dict[str, Sequence[str]]:
    return {"all RL methods": results.of_family("reward"), "all plain SFT": results.sft}


def _shown(results: Results) -> str:
    rows, excluded = law_rows(results, KL)
    shown = min(len(rows), LIMIT)
    left = f" {excluded:,} non-finite lines left out." if excluded else ""
    return f"{shown:,} of {len(rows):,} checkpoints shown; {support(results)}{left}"


def _left_aside(flips) -> str:
    if isinstance(flips, Absent):
        return ""
    return (
        f"Left aside: {flips.n_runs_without_sft} RL runs without an SFT run from the same base, "
        f"{flips.n_runs_unfinished} unfinished, {flips.n_excluded} non-finite lines. "
    )
