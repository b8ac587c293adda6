"""Success under both rules as pictures, one row a method: changes, instructions, turn budgets.

The same conventions as figures.py. Successes are drawn in percent, changes in percentage points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rlrazor.analysis.figures import WIDE, canvas, marker_style, themed, whiskers
from rlrazor.analysis.hover import INK, MUTED, PAPER, TippedFigure
from rlrazor.analysis.shift import Budget, Early, Shift
from rlrazor.analysis.shift_series import Pair
from rlrazor.analysis.shift_words import titles as titles_of
from rlrazor.analysis.shift_words import words
from rlrazor.analysis.statistics import Interval, t_interval
from rlrazor.analysis.style import FAMILIES, OUTSIDE, ArmStyle, Styles

EARLY = ArmStyle("Best early SFT", OUTSIDE, "#c77d0a", "*")
PAPER_COLOUR = "#9a55c0"


@dataclass(frozen=True)
class Row:
    """One line of a forest: the same quantity in several panels."""

    style: ArmStyle
    intervals: tuple[Interval, ...]  # one a panel
    note: str  # last line of the tip


@themed
def shift_figure(
    entries: Sequence[Shift],
    styles: Styles,
    place: str,
    early: Early | None = None,
    *,
    width: float = WIDE,
) -> TippedFigure:
    """Change of success since the base, trained and shifted, at the last checkpoint."""
    rules = titles_of([place])
    rows = [
        Row(
            styles[e.arm],
            tuple(e.change[task] for task in rules),
            f"{e.n_runs} runs, {e.n_seeds} seeds",
        )
        for e in entries
    ]
    if early is not None:
        changes = tuple(t_interval(early.change[task]) for task in rules)
        rows.append(Row(EARLY, changes, f"step {early.step}, {len(early.seeds)} seeds"))
    titles = [f"Under the {rule}" for rule in rules.values()]
    return _forest(_in_families(rows), titles, "change of success, points", width)


@themed
def difference_figure(
    pairs: Mapping[str, Sequence[Pair]],  # task -> its pairs
    styles: Styles,
    label: str,
    *,
    width: float = WIDE,
) -> TippedFigure:
    """first - second of each arm, one panel a task."""
    by_arm = [{pair.arm: pair for pair in found} for found in pairs.values()]
    arms = list(dict.fromkeys(arm for found in by_arm for arm in found))
    none = Interval(np.nan, np.nan, np.nan, 0)
    rows = [
        Row(
            styles[arm],
            tuple(f[arm].difference if arm in f else none for f in by_arm),
            f"{max(f[arm].n_seeds for f in by_arm if arm in f)} seeds",
        )
        for arm in arms
    ]
    titles = [f"Under the {rule}" for rule in titles_of([t for t in pairs if t != "new"]).values()]
    return _forest(_in_families(rows), titles, label, width)


@themed
def instruction_figure(
    pairs: Sequence[Pair], styles: Styles, place: str, *, width: float = WIDE
) -> TippedFigure:
    """Told the other rule: success by the rule it was told, and by the one it trained on."""
    if not pairs:
        raise ValueError("no arm was judged by both rules")
    thing = words(place).thing
    told, trained = f"by the {thing} it was told", f"by the {thing} of training"
    pairs = sorted(pairs, key=lambda pair: FAMILIES.index(styles[pair.arm].family))
    figure = canvas(width, 0.25 * len(pairs) + (1.1 if width > 5 else 1.4))
    axes = figure.subplots()
    for y, pair in enumerate(pairs):
        style = styles[pair.arm]
        ends = [100 * pair.first.estimate, 100 * pair.second.estimate]
        axes.plot(ends, [y, y], ":", color=style.colour, lw=1.0, zorder=2)
        for interval, mark, what in (
            (pair.second, marker_style(style, 6.5), told),
            (pair.first, _cross(style.colour), trained),
        ):
            whiskers(axes, [interval], np.array([y]), style.colour, scale=100, lw=1.4)
            mark["mfc"] = style.colour if style.filled else PAPER
            (dot,) = axes.plot([100 * interval.estimate], [y], ls="none", zorder=3, **mark)
            tip = f"{style.name}\nsuccess {what}: {_percent(interval)}\n{pair.n_seeds} seeds"
            figure.explain(dot, [tip])
    _names(axes, [styles[pair.arm].name for pair in pairs])
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    figure.supxlabel(f"success where the prompt states the other {thing}, %", fontsize=9)
    keys = [
        Line2D([], [], ls="none", marker="o", color=INK, ms=6, label=told),
        Line2D([], [], ls="none", label=trained, **_cross(INK)),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2 if width > 5 else 1)
    return figure


@themed
def turns_figure(
    budgets: Sequence[Budget],
    styles: Styles,
    place: str,
    paper: Mapping[int, float],  # turns -> the change that a paper reports under the shift
    *,
    width: float = WIDE,
) -> TippedFigure:
    """Change of success against the turns that a training episode may take."""
    if not budgets:
        raise ValueError("no method was trained with several turns")
    methods = list(dict.fromkeys(b.method for b in budgets))
    turns = sorted({b.turns for b in budgets})
    styles = Styles({b.method: styles[b.arm] for b in reversed(budgets)})  # of the fewest turns
    wide = width > 5
    lines, columns = (1, 2) if wide else (2, 1)
    figure = canvas(width, 3.4 if wide else 5.6)
    panels = figure.subplots(lines, columns, squeeze=False).flat
    keys: list[Line2D] = []
    for (task, rule), axes in zip(titles_of([place]).items(), panels, strict=True):
        for k, method in enumerate(methods):
            mine = [b for b in budgets if b.method == method]
            for dash, what, reading in (
                ("-", "first answer", "first"),
                ("--", "within its turns", "within"),
            ):
                mark = marker_style(styles[method], 6.0)
                mark["mfc"] = styles[method].colour if dash == "-" else PAPER
                values = [getattr(b, reading)[task] for b in mine]
                shift = 0.06 * (k - (len(methods) - 1) / 2) + (0.05 if dash == "--" else -0.05)
                x = np.array([turns.index(b.turns) for b in mine]) + shift
                line = _vertical(figure, axes, x, values, dash, styles[method], mark, what, mine)
                if task == "new":
                    line.set_label(f"{styles[method].name}, {what}")
                    keys.append(line)
        if task == place and (known := [t for t in turns if t in paper]):
            at, gains = [turns.index(t) for t in known], [100 * paper[t] for t in known]
            mark = _cross(PAPER_COLOUR) | {"marker": "d"}
            (dots,) = axes.plot(at, gains, ls="none", label="the paper", zorder=4, **mark)
            told = zip(known, gains, strict=True)
            figure.explain(dots, [f"the paper, {t} turns\n{g:+.2f} points" for t, g in told])
            keys.append(dots)
        axes.axhline(0, color=MUTED, lw=0.8, zorder=1)
        axes.set_xticks(range(len(turns)), [str(n) for n in turns])
        axes.set_xlim(-0.4, len(turns) - 0.6)
        axes.set_title(f"Under the {rule}", loc="left")
        if wide or task == place:
            axes.set_xlabel("turns of a training episode")
    figure.supylabel("change of success, points", fontsize=9)
    figure.legend(handles=keys, loc="outside lower center", ncols=3 if wide else 1)
    return figure


def _vertical(figure, axes: Axes, x, values, dash, style, mark, what, budgets) -> Line2D:
    """A line with bars of its intervals and a tip at each mark; values without estimate go."""
    keep = [i for i, v in enumerate(values) if np.isfinite(v.estimate)]
    values, x = [values[i] for i in keep], x[keep]
    known = [(at, v) for at, v in zip(x, values, strict=True) if v.known]
    axes.vlines(
        [at for at, _ in known],
        [100 * v.low for _, v in known],
        [100 * v.high for _, v in known],
        color=style.colour,
        lw=1.2,
    )
    axes.plot(x, [100 * v.estimate for v in values], dash, color=style.colour, lw=1.4)
    (dots,) = axes.plot(x, [100 * v.estimate for v in values], ls="none", zorder=3, **mark)
    tips = [
        f"{style.name}, {budgets[i].turns} turns, {what}\n{v.text(scale=100, digits=1)}, points"
        for i, v in zip(keep, values, strict=True)
    ]
    figure.explain(dots, tips)
    return Line2D([], [], ls=dash, color=style.colour, lw=1.4, **mark)


def _forest(rows: Sequence[Row], titles: Sequence[str], label: str, width: float) -> TippedFigure:
    """Marks with whiskers, one panel a title, families apart."""
    rows = [row for row in rows if any(np.isfinite(i.estimate) for i in row.intervals)]
    if not rows:
        raise ValueError("no last checkpoint has such a measurement")
    wide = width > 5
    lines, columns = (1, len(titles)) if wide else (len(titles), 1)
    figure = canvas(width, (0.23 * len(rows) + 0.6) * lines + 0.4)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    for k, (title, axes) in enumerate(zip(titles, panels, strict=True)):
        for y, row in enumerate(rows):
            interval = row.intervals[k]
            if not np.isfinite(interval.estimate):
                continue
            mark = marker_style(row.style, 6.5)
            mark["mfc"] = row.style.colour if row.style.filled else PAPER
            whiskers(axes, [interval], np.array([y]), row.style.colour, scale=100)
            (dot,) = axes.plot([100 * interval.estimate], [y], ls="none", zorder=3, **mark)
            text = interval.text(scale=100, digits=1)
            figure.explain(dot, [f"{row.style.name}\n{title}: {text}, points\n{row.note}"])
        axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
        for y in range(1, len(rows)):
            if rows[y].style.family != rows[y - 1].style.family:
                axes.axhline(y - 0.5, color=MUTED, lw=0.5, zorder=1)
        axes.set_title(title, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        _names(axes, [row.style.name for row in rows])
        axes.tick_params(axis="y", length=0)
    figure.supxlabel(label, fontsize=9)
    return figure


def _in_families(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: FAMILIES.index(row.style.family))


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _cross(colour: str) -> dict[str, Any]:
    return {"marker": "x", "ms": 6.0, "mec": colour, "mfc": "none", "mew": 1.6}


def _percent(interval: Interval) -> str:
    return interval.limits(scale=100, digits=1, unit=" %")
