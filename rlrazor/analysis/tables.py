"""Analysis objects as rows of text, for the report and for the terminal.

Every number stands with its interval, and every table says how many runs and seeds it rests on.
Accuracy differences are in percentage points.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlrazor.analysis.figures import bars, number
from rlrazor.analysis.flips import FlipMap
from rlrazor.analysis.frontier import ArmComparison, Matched
from rlrazor.analysis.frontier_figures import axis_name, axis_value
from rlrazor.analysis.law import Law, LeftOutSummary, WithinArm
from rlrazor.analysis.predictors import PredictorRow
from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import Interval
from rlrazor.analysis.style import Styles
from rlrazor.analysis.trajectory import StepCorrelation
from rlrazor.analysis.verdicts import Verdict
from rlrazor.lines import KL

NONE = "n/a"


@dataclass(frozen=True)
class Table:
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()  # columns set flush right
    folded: bool = False  # closed until asked for
    kind: str = "table"


def law_table(laws: Sequence[Law]) -> Table:
    return make_table(
        "One curve for all methods. R² = 1 - SSE/SST on the rows fitted; 95 % intervals resample "
        "whole seeds. Error: mean absolute, in points of prior accuracy.",
        ("Fit", "R² [95 %]", "Error", "Checkpoints", "Runs", "Seeds", "Non-finite"),
        [
            (
                law.kind,
                number(law.r2),
                _points(law.mean_absolute_error),
                *_counts(law),
                str(law.n_excluded),
            )
            for law in laws
        ],
    )


def within_table(entries: Sequence[WithinArm], mean: Interval, names: Styles) -> Table:
    rows = [
        (
            names[e.arm].name,
            number(e.r2),
            f"{e.shared_r2:.2f}" if math.isfinite(e.shared_r2) else NONE,
            _points(e.spread),
            *_counts(e),
        )
        for e in entries
    ]
    rows.append(("Mean over methods", number(mean), "", "", "", "", str(mean.n)))
    return make_table(
        "Within each method: its own quadratic, and the pooled curve judged on this method alone "
        "(negative: worse than the method's mean). A method whose forgetting hardly varies "
        "(small spread, in points) has little to explain.",
        ("Method", "Own R² [95 %]", "Pooled curve's R²", "Spread", "Checkpoints", "Runs", "Seeds"),
        rows,
    )


def left_out_table(summary: LeftOutSummary, names: Styles, what: str) -> Table:
    rows = [
        (
            names[p.name].name,
            number(p.r2_inside),
            _points(p.mean_absolute_error),
            _points(p.bias, sign=True),
            f"{100 * p.share_outside:.0f} %",
            number(p.r2),
            *_counts(p),
        )
        for p in summary.parts
    ]
    overall = (number(summary.r2_inside), _points(summary.mean_absolute_error), "")
    share = f"{100 * summary.share_outside:.0f} %"
    rows.append(("All together", *overall, share, "", "", "", str(summary.r2_inside.n)))
    return make_table(
        f"{what}: the curve is fitted without it. R² and error count "
        "the checkpoints inside the fitted KL range; the last R² also those beyond it, where the "
        "quadratic extrapolates. Bias, in points: positive means it forgets more than predicted.",
        (
            "Left out",
            "R² inside [95 %]",
            "Error",
            "Bias",
            "Beyond range",
            "R² of all [95 %]",
            "Checkpoints",
            "Runs",
            "Seeds",
        ),
        rows,
    )


def predictor_rows(table: Sequence[PredictorRow]) -> Table:
    rows = []
    reasons = [f"{bars(row.predictor.label)}: {row.reason}" for row in table if row.reason]
    absent = f"Not available: {'; '.join(reasons)}." if reasons else ""
    beside = any(row.predictor.paper_r2 is not None for row in table)
    papers = ("Paper", "Replication") if beside else ()
    for row in table:
        paper, rival = row.predictor.paper_r2, row.predictor.replication_r2
        rows.append(
            (
                bars(row.predictor.label),
                number(row.pooled),
                *(NONE if r2 is None else f"{r2:.2f}" for r2 in (paper, rival)[: len(papers)]),
                number(row.within),
                number(row.left_out),
                _points(row.left_out_error),
                f"{row.n_rows:,}",
                str(row.n_excluded),
                str(row.pooled.n if row.pooled else 0),
            )
        )
    return make_table(
        "R² of a second-degree fit of forgetting in each measured change"
        + ", beside the paper's Table 1 and a public replication (one seed)" * beside
        + ". "
        "Within: mean over methods of the R² of their own fits. Left out: a method predicted from "
        "the others, inside the fitted range, with its mean absolute error in points. " + absent,
        (
            "Predictor",
            "R² here [95 %]",
            *papers,
            "Within [95 %]",
            "Left out [95 %]",
            "Error",
            "Checkpoints",
            "Non-finite",
            "Seeds",
        ),
        rows,
    )


def matched_table(
    entries: Sequence[Matched], comparisons: Sequence[ArmComparison], names: Styles
) -> Table:
    against = {c.arm: c for c in comparisons}
    reference = comparisons[0].reference if comparisons else None
    label = names[reference].name if reference else "reference"
    rows = []
    for entry in entries:
        versus = (NONE, NONE, "the reference" if entry.arm == reference else NONE)
        if entry.arm in against:
            c = against[entry.arm]
            versus = (number(c.comparison.difference, 100, 1), _p(c.p_adjusted), c.word)
        rows.append(
            (
                names[entry.arm].name,
                number(entry.best, 100, 1),
                *versus,
                number(entry.typical, 100, 1),
                f"{entry.n_runs_reaching} of {entry.n_runs}",
                str(entry.n_runs_jumped),
                str(entry.n_seeds),
            )
        )
    target = f"{entries[0].target:.3f}" if entries else NONE
    return make_table(
        f"Forgetting in points at new-task accuracy {target}. Best: the run that kept most, "
        "chosen in hindsight; typical: mean over runs when they first get there. Difference: "
        f"of the best runs, minus {label}; p: paired t test over seeds, Benjamini-Hochberg over "
        "the methods. Jumped: runs that passed the accuracy between distant checkpoints, counted "
        "in best only.",
        (
            "Method",
            "Best [95 %]",
            "Difference [95 %]",
            "Adjusted p",
            "Forgets",
            "Typical [95 %]",
            "Runs that reach",
            "Jumped",
            "Seeds",
        ),
        rows,
    )


def targets_table(by_target: Sequence[Sequence[Matched]], names: Styles) -> Table:
    arms = [entry.arm for entry in by_target[0]]
    rows = [
        (names[arm].name, *(number(entries[i].best, 100, 1) for entries in by_target))
        for i, arm in enumerate(arms)
    ]
    head = tuple(f"at {entries[0].target:.3f}" for entries in by_target)
    seeds = max(entry.n_seeds for entry in by_target[0])
    return make_table(
        "The best run's forgetting, points [95 %], as the required new-task accuracy grows; "
        f"{sum(entry.n_runs for entry in by_target[0]):,} runs, up to {seeds} seeds.",
        ("Method", *head),
        rows,
    )


def flip_table(flips: FlipMap, names: Styles, caption: str) -> Table:
    rows = [
        (
            *(axis_value(a, v, names) for a, v in zip(flips.axes, cell.values, strict=True)),
            cell.word,
            number(cell.over_frontier, 100, 1),
            _p(cell.p_adjusted),
            number(cell.over_typical, 100, 1),
            str(cell.n_runs),
            str(cell.n_beyond_reach),
            str(cell.over_frontier.n),
        )
        for cell in flips.cells
    ]
    knobs = tuple(axis_name(axis) for axis in flips.axes)
    return make_table(
        caption,
        (
            *knobs,
            "Verdict",
            "Over best SFT [95 %]",
            "Adjusted p",
            "Over typical SFT [95 %]",
            "RL runs",
            "Beyond SFT",
            "Seeds",
        ),
        rows,
        first=len(knobs) + 1,
        folded=True,
    )


def trajectory_table(entries: Sequence[StepCorrelation], names: Styles) -> Table:
    return make_table(
        "Spearman correlation, over the steps of a run, of the cosine between update and "
        "prior-loss gradient with the step's change of KL(base‖policy).",
        ("Method", "Correlation [95 %]", "Steps", "Runs", "Seeds"),
        [
            (
                names[e.arm].name,
                number(e.correlation),
                str(e.n_steps),
                str(e.n_runs),
                str(e.correlation.n),
            )
            for e in entries
        ],
    )


def data_table(results: Results, names: Styles) -> Table:
    """What was read, arm by arm, and what had to be left out of fits."""
    rows = [(names[arm].name, arm, *_data_counts(results.of_arms(arm))) for arm in results.arms]
    rows.append(("All", "", *_data_counts(results)))
    return make_table(
        "What the results file holds. Non-finite: lines whose KL or accuracy is missing, NaN or "
        "infinite, left out of every fit; diverged: runs with such a line; unfinished: runs "
        "without a last checkpoint.",
        ("Method", "Arm", "Runs", "Lines", "Seeds", "Non-finite lines", "Diverged", "Unfinished"),
        rows,
        first=2,
    )


def _data_counts(rows: Results) -> tuple[str, ...]:
    needed = (KL, "forgetting", "gain")
    bad = ~np.all([np.isfinite(rows[name]) for name in needed], axis=0)
    counts = (rows.n_runs, len(rows), len(rows.seeds), int(bad.sum()))
    unfinished = rows.n_runs - rows.final().n_runs
    return tuple(f"{n:,}" for n in (*counts, rows.select(bad).n_runs, unfinished))


def answer_text(
    verdicts: Sequence[Verdict] | Mapping[str, Sequence[Verdict]], *, width: int = 100
) -> str:
    """The verdicts as a plain table for a terminal, at most `width` columns wide.

    Verdicts of several studies, given by the study's name, have a column that says whose.
    """
    studies = verdicts if isinstance(verdicts, Mapping) else {"": verdicts}
    several = len(studies) > 1
    head = ("claim", "verdict", "measured [95 %]", "runs", "seeds")
    fixed = (14, 27, 6, 5)
    first = (min(14, max(5, *map(len, studies))),) if several else ()
    sizes = (*first, width - sum(fixed) - sum(first) - 2 * len((*first, *fixed)), *fixed)
    rule = "-" * width
    lines = [_columns([(text,) for text in ("study",) * several + head], sizes)]
    for name, found in studies.items():
        lines.append(rule)
        for v in found:
            row = (v.claim, v.word, measured(v), f"{v.n_runs:,}", str(v.n_seeds))
            texts = zip((name,) * several + row, sizes, strict=True)
            lines.append(
                _columns([tuple(textwrap.wrap(text, size)) for text, size in texts], sizes)
            )
    return "\n".join(lines + _footnote(studies))


def _footnote(studies: Mapping[str, Sequence[Verdict]]) -> list[str]:
    """What the brackets around R2 are worth, where a verdict has some."""
    known = [v.ours for found in studies.values() for v in found if v.ours and v.ours.known]
    worth = {i.n: round(100 * i.coverage) for i in known if i.kind == "r2"}
    if not worth:
        return []
    each = ", ".join(f"{share} % at {n} seeds" for n, share in sorted(worth.items()))
    return ["", f"An interval of R2 that says 95 % holds the true value less often: {each}."]


def measured(verdict: Verdict) -> str:
    """The number a verdict rests on: R2 as it is, accuracy differences in points."""
    if "R2" in verdict.quantity:
        small = verdict.ours is not None and abs(verdict.ours.estimate) < 0.1
        return number(verdict.ours, digits=3 if small else 2)
    return number(verdict.ours, 100, 1, " points")


def coverage_text(interval: Interval | None) -> str:
    """What kind of interval it is, and how often such a one holds the true value."""
    if interval is None or not interval.known:
        return ""
    real = round(100 * interval.coverage)
    if real == round(100 * interval.level):
        return f" ({100 * interval.level:.0f} % interval)"
    return (
        f" (nominal {100 * interval.level:.0f} % interval; at {interval.n} seeds it holds the true "
        f"value {real} % of the time)"
    )


def nominal(n_seeds: int) -> str:
    """What a 95 % interval is worth at this number of seeds."""
    if n_seeds < 2:
        return ""
    r2 = round(100 * Interval(0.5, 0.4, 0.6, n_seeds, kind="r2").coverage)
    return (
        f"The 95 % are nominal: at {n_seeds} seeds an interval of R² holds the true value in about "
        f"{r2} % of simulated studies (rlrazor/analysis/coverage.py); Student's t is exact where "
        "seeds vary normally."
    )


def _columns(cells: Sequence[tuple[str, ...]], sizes: Sequence[int]) -> str:
    depth = max(len(cell) for cell in cells)
    lines = []
    for i in range(depth):
        parts = [cell[i] if i < len(cell) else "" for cell in cells]
        lines.append("  ".join(f"{p:<{s}}" for p, s in zip(parts, sizes, strict=True)).rstrip())
    return "\n".join(lines)


def make_table(caption: str, head: tuple[str, ...], rows, *, first: int = 1, folded=False) -> Table:
    numeric = frozenset(range(first, len(head)))
    return Table(caption, head, tuple(rows), numeric, folded)


def _counts(entry) -> tuple[str, str, str]:
    return f"{entry.n_rows:,}", f"{entry.n_runs:,}", str(entry.n_seeds)


def _points(fraction: float, *, sign: bool = False) -> str:
    if not math.isfinite(fraction):
        return NONE
    text = f"{100 * fraction:+.1f}" if sign else f"{100 * fraction:.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text


def _p(p: float) -> str:
    if not math.isfinite(p):
        return NONE
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
