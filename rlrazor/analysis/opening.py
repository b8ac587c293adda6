"""What the report opens with: one picture and three sentences.

The picture shows both axes at the last checkpoints: change of success under each shift against
forgetting. Where no shift was tested it is the forgetting law; where no prior task was, learning
stands in forgetting's place; where neither was, success on the new task along training is left.
The sentences are of the verdicts, with their numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rlrazor.analysis import figures
from rlrazor.analysis.claims import FAILS, HOLDS, UNDECIDED, Verdict
from rlrazor.analysis.figures import WIDE, arm_legend, bars, canvas, marker_style, themed
from rlrazor.analysis.hover import INK, MUTED, PAPER, TippedFigure
from rlrazor.analysis.law import quadratic_law
from rlrazor.analysis.results import Results, main_variant
from rlrazor.analysis.shift import Shift, shifts
from rlrazor.analysis.shift_curves import paths_figure
from rlrazor.analysis.shift_series import paths
from rlrazor.analysis.shift_words import words
from rlrazor.analysis.statistics import Interval
from rlrazor.analysis.style import ArmStyle, Styles
from rlrazor.analysis.tables import measured
from rlrazor.lines import KL

UNTESTED = "not tested"


@dataclass(frozen=True)
class Sentence:
    question: str
    word: str  # HOLDS, FAILS, UNDECIDED or UNTESTED
    text: str


def sentences(results: Results, found: Sequence[Verdict]) -> list[Sentence]:
    """Does RL generalize, does it forget less, does KL say how much."""
    return [_generalizes(results, found), _forgets(results, found), _predicts(results, found)]


def opening_figure(
    results: Results, styles: Styles, *, resamples: int, width: float = WIDE, limit: int
) -> TippedFigure:
    main = main_variant(results)
    if main.shifts and main.has(*(f"{place}/change" for place in main.shifts[:1])):
        x = "forgetting" if main.has("forgetting") else "new"
        return axes_figure({p: shifts(main, p) for p in main.shifts}, styles, x, width=width)
    if main.has("forgetting", KL):
        try:
            law = quadratic_law(main, resamples=resamples)
        except ValueError:  # too few rows to fit, enough to show
            law = None
        return figures.law_figure(main, law, styles=styles, width=width, limit=limit)
    along = {"new": paths(main, "step", "new/accuracy")}
    return paths_figure(along, styles, "training step", width=width)


@themed
def axes_figure(
    by_place: dict[str, list[Shift]],  # place of a shift -> its arms
    styles: Styles,
    x: str,  # "forgetting", or "new" for the change on the new task
    *,
    width: float = WIDE,
) -> TippedFigure:
    """Change of success under each shift against forgetting, means over seeds with intervals."""
    wide, n = width > 5, len(by_place)
    lines, columns = (1, n) if wide else (n, 1)
    names = list(dict.fromkeys(e.arm for entries in by_place.values() for e in entries))
    figure = canvas(width, (3.4 if wide else 3.2) * lines + (0.12 if wide else 0.22) * len(names))
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    drawn = 0
    for (place, entries), axes in zip(by_place.items(), panels, strict=True):
        axes.axhline(0, color=MUTED, lw=0.8, zorder=1)
        axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
        for entry in entries:
            drawn += _cross(figure, axes, entry, styles[entry.arm], (place, x))
        axes.set_ylabel(f"change of success\n{words(place).untrained}, points")
        axes.set_xlabel("forgetting, points" if x == "forgetting" else "gain, new task, points")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        corner = (0.02, 0.98, "left") if x == "forgetting" else (0.98, 0.98, "right")
        axes.text(*corner[:2], "↖ better" if x == "forgetting" else "better ↗", color=INK,
                  ha=corner[2], va="top", transform=axes.transAxes, fontsize=8.5)  # fmt: skip
    if not drawn:
        raise ValueError("no last checkpoint was measured on both axes")
    arm_legend(figure, styles.of(names), width)
    return figure


def _cross(
    figure: TippedFigure, axes: Axes, entry: Shift, style: ArmStyle, columns: tuple[str, str]
) -> int:
    """An arm's mark with an interval each way; returns how many marks were drawn."""
    place, x = columns
    across = entry.forgetting if x == "forgetting" else entry.change["new"]
    up = entry.change[place]
    if not np.isfinite([across.estimate, up.estimate]).all():
        return 0
    at = 100 * across.estimate, 100 * up.estimate
    if across.known:
        axes.hlines(at[1], 100 * across.low, 100 * across.high, color=style.colour, lw=1.2)
    if up.known:
        axes.vlines(at[0], 100 * up.low, 100 * up.high, color=style.colour, lw=1.2)
    mark = marker_style(style, 7.0)
    mark["mfc"] = style.colour if style.filled else PAPER
    (dot,) = axes.plot([at[0]], [at[1]], ls="none", zorder=3, **mark)
    what = "forgetting" if x == "forgetting" else "gain, new task"
    tip = (
        f"{style.name}\nchange, {words(place).other}: {_points(up)}\n{what}: {_points(across)}\n"
        f"{entry.n_runs} runs, {entry.n_seeds} seeds"
    )
    figure.explain(dot, [tip])
    return 1


def _generalizes(results: Results, found: Sequence[Verdict]) -> Sentence:
    question = "Does RL generalize?"
    if not results.shifts:
        return Sentence(
            question, UNTESTED, "No shift was tested: no line has shift/<name>/accuracy."
        )
    told, words_of = [], []
    for place in results.shifts:
        name = place.removeprefix("shift/")
        start, rival = (_of(found, key, name) for key in ("rl_gains", "rl_beats_sft"))
        if start is None:
            continue
        words_of.append(start.word)
        text = f"{words(place).untrained}, RL changes by {_number(start)} since its own start"
        if rival is not None and rival.ours is not None:
            text += f" and stands {_number(rival)} above SFT at equal FLOPs ({rival.word})"
        told.append(text)
    if not told:
        return Sentence(question, UNTESTED, "No plain RL method was trained.")
    text = "; ".join(told)
    word = words_of[0] if len(set(words_of)) == 1 else UNDECIDED
    return Sentence(question, word, bars(f"{text[0].upper()}{text[1:]}."))


def _forgets(results: Results, found: Sequence[Verdict]) -> Sentence:
    question = "Does it forget less?"
    if not results.has("forgetting"):
        return Sentence(
            question, UNTESTED, "Prior tasks were not tested: no line has a finite prior/accuracy."
        )
    at_gain, best, end = (
        _of(found, key) for key in ("rl_less_at_gain", "rl_less", "rl_forgets_less_at_end")
    )
    matched = best if at_gain is None or at_gain.ours is None else at_gain
    known = [v for v in (matched, end) if v is not None and v.ours is not None]
    if not known:
        reason = "RL and SFT cannot be compared: one of them is missing or learnt nothing."
        return Sentence(question, UNDECIDED if matched or end else UNTESTED, reason)
    where = {
        "rl_less_at_gain": "at the same gain, each at its own learning rate,",
        "rl_less": "at equal new-task accuracy",
        "rl_forgets_less_at_end": "at equal FLOPs",
    }
    told = [
        f"{where[v.key]} SFT forgets {_number(v)} more than RL"
        + (f" ({v.word})" if v is not known[0] else "")
        for v in known
    ]
    text = "; ".join(told)
    return Sentence(question, known[0].word, bars(f"{text[0].upper()}{text[1:]}."))


def _predicts(results: Results, found: Sequence[Verdict]) -> Sentence:
    question = "Does KL predict it?"
    if not results.has("forgetting", KL):
        what = "KL" if results.has("forgetting") else "Forgetting"
        return Sentence(question, UNTESTED, f"{what} was not measured.")
    pooled, left_out = (_of(found, key) for key in ("kl_pooled", "same_curve"))
    if pooled is None or pooled.ours is None:
        return Sentence(question, UNDECIDED, "Too few checkpoints to fit a law.")
    text = f"One quadratic in KL(base||policy) has R2 = {_number(pooled)} on forgetting"
    if left_out is not None and left_out.ours is not None:
        text += f"; on a method left out of the fit, R2 = {_number(left_out)} ({left_out.word})"
    return Sentence(question, pooled.word, bars(f"{text}."))


def _of(found: Sequence[Verdict], key: str, shift: str = "") -> Verdict | None:
    return next((v for v in found if (v.key, v.shift) == (key, shift)), None)


def _number(verdict: Verdict) -> str:
    return measured(verdict)


def brackets(found: Sequence[Verdict]) -> str:
    """What the brackets of the sentences are, once for all of them."""
    known = [v.ours for v in found if v.ours is not None and v.ours.known]
    if not known:
        numbers = any(v.ours is not None for v in found)
        return "No brackets: one seed gives no interval." if numbers else ""
    worth = {i.n: f"{100 * i.coverage:.0f} % at {i.n} seeds" for i in known if i.kind == "r2"}
    real = f"; those of R² hold the true value {', '.join(worth.values())}" if worth else ""
    return f"Brackets: 95 % intervals over seeds{real}."


def _points(interval: Interval) -> str:
    return interval.text(scale=100, digits=1) + " (points)"


CSS = {HOLDS: "holds", FAILS: "fails"}
