"""The law as pictures: forgetting against KL, arm by arm, and every rival predictor.

Every figure takes analysis objects and returns a matplotlib Figure whose marks know their run
(`hover.TippedFigure`). Two widths, WIDE for a page and NARROW for a phone, because text that is
legible at both cannot be had by scaling. A scatter shows at most `limit` points: every arm keeps
its share, evenly spaced in the order of the x value, ends included; fits use all rows.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rlrazor.analysis.hover import INK, MUTED, RC, TippedFigure, run_tips
from rlrazor.analysis.law import Law, WithinArm
from rlrazor.analysis.predictors import PredictorRow
from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import Interval
from rlrazor.analysis.style import FAMILIES, ArmStyle, Styles, arm_styles
from rlrazor.lines import KL

WIDE, NARROW = 8.0, 3.7  # inches
FLOOR = -0.25  # R2 below this runs off the axis, with an arrow
LIMIT = 2500  # points of a scatter; a phone's browser stays quick
FORGETTING_LABEL = "forgetting, percentage points"


def themed(draw: Callable[..., TippedFigure]) -> Callable[..., TippedFigure]:
    """Draws under our own settings, whatever the caller's matplotlibrc says."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> TippedFigure:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    return wrapped


def canvas(width: float, height: float) -> TippedFigure:
    return TippedFigure(figsize=(width, height), layout="constrained")


@themed
def law_figure(
    results: Results,
    quadratic: Law | None,
    isotonic: Law | None = None,
    *,
    styles: Styles | None = None,  # None: those of these results alone
    width: float = WIDE,
    limit: int = LIMIT,
) -> TippedFigure:
    """All arms' checkpoints and the pooled curves: the paper's Figure 3, middle."""
    rows = scatter_rows(results, limit)
    styles = (styles or arm_styles(results)).of(results.arms)
    figure = canvas(width, 5.0 if width > 5 else 4.9)
    axes = figure.subplots()
    for arm in rows.arms:
        _scatter(figure, axes, rows.of_arms(arm), styles)
    curves = _curves(axes, quadratic, isotonic)
    kl_axis(axes, rows[KL], label=kl_label(width))
    axes.set_ylabel(FORGETTING_LABEL)
    axes.axhline(0, color=MUTED, lw=0.8, zorder=1)
    if curves:
        axes.set_ymargin(0.05 if width > 5 else 0.14)  # room for the legend
        axes.legend(handles=curves, loc="upper left")
    arm_legend(figure, styles, width)
    return figure


@themed
def law_by_arm_figure(
    results: Results,
    quadratic: Law | None,
    within: Sequence[WithinArm] = (),
    *,
    styles: Styles | None = None,  # None: those of these results alone
    width: float = WIDE,
    limit: int = LIMIT,
) -> TippedFigure:
    """One panel an arm, same axes: does the law hold within a method, and is it one curve?"""
    rows = scatter_rows(results, limit)
    styles = (styles or arm_styles(results)).of(rows.arms)
    fits = {entry.arm: entry for entry in within}
    columns = min(5 if width > 5 else 2, len(styles))
    lines = -(-len(styles) // columns)
    figure = canvas(width, 1.75 * lines + 0.5)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for arm, axes in zip(styles, panels.flat, strict=False):
        _curves(axes, quadratic, None, thin=True)
        _scatter(figure, axes, rows.of_arms(arm), styles, size=3.0)
        axes.set_title(styles[arm].name, loc="left", fontsize=8.5)
        if arm in fits:
            axes.text(
                *(0.97, 0.04, f"R² {number(fits[arm].r2)}"),
                transform=axes.transAxes,
                ha="right",
                va="bottom",
                fontsize=8,
                zorder=2.5,  # under the marks: no run is hidden
                in_layout=False,
            )
    for axes in panels.flat[len(styles) :]:
        axes.set_visible(False)
    kl_axis(panels[0, 0], rows[KL], most=4)
    for axes in panels.flat[max(0, len(styles) - columns) : len(styles)]:
        axes.tick_params(labelbottom=True)  # also above an empty place of the grid
    figure.supxlabel(kl_label(width), fontsize=9)
    figure.supylabel(FORGETTING_LABEL, fontsize=9)
    return figure


@themed
def predictor_figure(table: Sequence[PredictorRow], *, width: float = WIDE) -> TippedFigure:
    """R2 of each predictor with its interval, beside the paper's and a replication's number."""
    rows = [row for row in table if row.pooled is not None]
    if not rows:
        raise ValueError("no predictor can be fitted")
    figure = canvas(width, 0.27 * len(rows) + (1.2 if width > 5 else 1.6))
    axes = figure.subplots()
    y = np.arange(len(rows), dtype=float)
    pooled = [row.pooled for row in rows if row.pooled is not None]
    whiskers(axes, pooled, y, INK)
    shown = [max(p.estimate, FLOOR) for p in pooled]
    (dots,) = axes.plot(shown, y, "o", color=INK, ms=5, ls="none")
    off = [at for p, at in zip(pooled, y, strict=True) if min(p.low, p.estimate) < FLOOR]
    axes.plot([FLOOR] * len(off), off, "<", color=INK, ms=5, clip_on=False)
    figure.explain(
        dots,
        [
            f"{bars(row.predictor.label)}\nR² {number(p)}, {p.n} seeds\n{row.n_rows} checkpoints"
            for row, p in zip(rows, pooled, strict=True)
        ],
    )
    handles = [_key("o", INK, "here, with interval")]
    for marker, colour, key, label in (
        ("d", "#c77d0a", "paper_r2", "the paper"),
        ("x", "#9a55c0", "replication_r2", "public replication"),
    ):
        known = [(getattr(r.predictor, key), i) for i, r in enumerate(rows)]
        known = [(value, i) for value, i in known if value is not None]
        if known:
            (line,) = axes.plot(
                *zip(*known, strict=True),
                marker=marker,
                ls="none",
                ms=6,
                mec=colour,
                mfc="none",
                mew=1.5,
            )
            texts = [f"{bars(rows[i].predictor.label)}\nR² {v:.2f}, {label}" for v, i in known]
            figure.explain(line, texts)
            handles.append(_key(marker, colour, label, hollow=True))
    axes.set_yticks(y, [bars(row.predictor.label) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(FLOOR if off else -0.02, 1.02)
    axes.set_xlabel("R² of the quadratic fit, all methods pooled", fontsize=9)
    figure.legend(handles=handles, loc="outside upper center", ncols=3 if width > 5 else 2)
    return figure


def scatter_rows(results: Results, limit: int) -> Results:
    """Trained rows with a finite KL and forgetting, thinned to `limit` as the header states."""
    rows, _ = results.trained().finite(KL, "forgetting", "new/accuracy")
    if len(rows) == 0:
        raise ValueError(
            "no checkpoint after step 0 has a finite KL and forgetting: nothing to draw"
        )
    return rows.select(thin(rows[KL], rows["arm"], limit))


def thin(x: np.ndarray, groups: np.ndarray, limit: int) -> np.ndarray:
    """Indices i64[<=limit] kept: every group its share, evenly spaced in the order of x."""
    if len(x) <= limit:
        return np.arange(len(x))
    kept: list[np.ndarray] = []
    names = list(dict.fromkeys(groups.tolist()))
    for name in names:
        members = np.flatnonzero(groups == name)
        members = members[np.argsort(x[members], kind="stable")]
        share = max(1, limit * len(members) // len(x))
        picks = np.linspace(0, len(members) - 1, min(share, len(members)))
        kept.append(members[np.round(picks).astype(int)])
    return np.sort(np.concatenate(kept))


def arm_legend(figure: TippedFigure, styles: Mapping[str, ArmStyle], width: float) -> None:
    """Below the axes, in the order of the families."""
    handles = [
        Line2D([], [], ls="none", label=f" {style.name}", **marker_style(style, 6.0))
        for family in FAMILIES
        for style in styles.values()
        if style.family == family
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4 if width > 5 else 2),
        handletextpad=0.1,
        columnspacing=1.0,
        labelspacing=0.35,
    )


def marker_style(style: ArmStyle, size: float) -> dict[str, Any]:
    """Filled for arms that learn from reward, hollow for the others."""
    grow = {"*": 1.45, "o": 1.0, "s": 0.92, "D": 0.85, "X": 1.1, "P": 1.1}.get(style.marker, 1.1)
    return {
        "marker": style.marker,
        "ms": size * grow,
        "mec": style.colour,
        "mfc": style.colour if style.filled else "none",
        "mew": 0.5 if style.filled else 1.0,
    }


def whiskers(
    axes: Axes,
    intervals: Sequence[Interval],
    y: np.ndarray,
    colour: str,
    *,
    scale: float = 1.0,
    lw: float = 1.6,
) -> None:
    """Horizontal bars of the known intervals."""
    known = [(i, at) for i, at in zip(intervals, y, strict=True) if i.known]
    lows, highs = [scale * i.low for i, _ in known], [scale * i.high for i, _ in known]
    axes.hlines([at for _, at in known], lows, highs, color=colour, lw=lw)


def number(interval: Interval | None, scale: float = 1.0, digits: int = 2, unit: str = "") -> str:
    """Estimate and limits without the number of seeds, for places that state it elsewhere."""
    if interval is None or not np.isfinite(interval.estimate):
        return "n/a"
    return interval.limits(scale=scale, digits=digits, unit=unit)


def bars(text: str) -> str:
    """The divergence sign and the square as they are printed: ASCII serves terminals and code."""
    return re.sub(r"\bR2\b", "R²", text.replace("||", "‖"))


def _key(marker: str, colour: str, label: str, *, hollow: bool = False) -> Line2D:
    fill = "none" if hollow else colour
    return Line2D([], [], ls="none", marker=marker, mec=colour, mfc=fill, mew=1.5, label=label)


def _scatter(
    figure: TippedFigure,
    axes: Axes,
    rows: Results,
    styles: Mapping[str, ArmStyle],
    size: float = 3.6,
) -> None:
    style = styles[rows.arms[0]]
    x, y = np.maximum(rows[KL], 0), 100 * rows["forgetting"]
    (marks,) = axes.plot(x, y, ls="none", alpha=0.75, zorder=3, **marker_style(style, size))
    figure.explain(marks, run_tips(rows, styles))


def _curves(axes: Axes, quadratic: Law | None, isotonic: Law | None, *, thin: bool = False):
    handles = []
    for law, dash, name in ((quadratic, "-", "quadratic"), (isotonic, "--", "isotonic")):
        if law is None:
            continue
        x, y = np.maximum(law.curve_x, 0), 100 * law.curve_y
        colour, weight = (MUTED, 1.0) if thin else (INK, 1.8)
        label = f"{name}, R² {number(law.r2)}"
        handles += axes.plot(x, y, dash, color=colour, lw=weight, zorder=5, label=label)
    return handles


def kl_axis(axes: Axes, kl: np.ndarray, *, label: str = "", most: int = 8) -> None:
    """Square-root axis: half the runs of a sweep have tiny KL, and a line there would hide them."""
    top = float(np.max(kl)) * 1.04 + 1e-9
    axes.set_xscale("function", functions=(_signed_sqrt, _signed_square))
    axes.set_xlim(-(0.012**2) * top, top)
    ticks = sqrt_ticks(top, most)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)


def kl_label(width: float) -> str:
    where = " on new-task inputs" if width > 5 else ""
    return f"KL(base‖policy){where}, nats (square-root axis)"


def sqrt_ticks(top: float, most: int = 8) -> list[float]:
    """Round numbers from 0 to top, at least 1/most of the axis apart where the axis is a root."""
    decade = np.floor(np.log10(top))
    rounds = [m * 10.0**e for e in np.arange(decade, decade - 4, -1) for m in (5, 2, 1)]
    kept: list[float] = []
    for tick in rounds:
        room = [abs(np.sqrt(tick) - np.sqrt(other)) for other in kept]
        far = np.sqrt(top) / most
        if tick <= top and min([*room, np.sqrt(tick)]) >= far:
            kept.append(float(tick))
    return [0.0, *sorted(kept)]


def _signed_sqrt(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def _signed_square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.square(x)
