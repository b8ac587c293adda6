"""Success under both rules as curves: tries, compute, recognition; and both axes against KL.

The same conventions as figures.py. Bands are 95 % intervals over seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rlrazor.analysis.figures import (
    LIMIT,
    WIDE,
    arm_legend,
    canvas,
    kl_axis,
    kl_label,
    marker_style,
    number,
    scatter_rows,
    themed,
)
from rlrazor.analysis.hover import INK, LINE, MUTED, PAPER, TippedFigure, run_tips
from rlrazor.analysis.law import Law
from rlrazor.analysis.results import Results, main_variant
from rlrazor.analysis.shift import change
from rlrazor.analysis.shift_series import Curve
from rlrazor.analysis.shift_words import titles, words
from rlrazor.analysis.style import FAMILIES, ArmStyle, Styles, arm_styles
from rlrazor.lines import KL, MAIN

Curves = Mapping[str, Sequence[Curve]]  # task -> curves; the base's has no arm
Tip = Callable[[Curve, int, str], str]


@themed
def tries_figure(curves: Curves, styles: Styles, *, width: float = WIDE) -> TippedFigure:
    """pass@k of the base and of each arm: does training add ability or sharpen it?"""
    figure, panels = _grid(curves, styles, "tries k", _tries_tip, width)
    ks = next(found for found in curves.values() if found)[0].x
    panels[0, 0].set_xscale("log", base=2)  # shared by all panels
    for axes in panels.flat:
        axes.set_xticks(ks, [f"{k:g}" for k in ks])
        axes.minorticks_off()
    base = Line2D([], [], color=INK, ls="--", marker=".", lw=1.6, label="base")
    panels[0, 0].legend(handles=[base], loc="lower right", borderaxespad=0.1)
    return figure


@themed
def paths_figure(
    curves: Curves, styles: Styles, label: str, *, bands: bool = True, width: float = WIDE
) -> TippedFigure:
    """Success along training; without bands only the last checkpoint has its interval."""
    figure, panels = _grid(curves, styles, label, _path_tip, width, bands)
    panels[0, 0].xaxis.set_major_locator(MaxNLocator(4 if width > 5 else 3))
    return figure


@themed
def axes_figure(
    results: Results,
    place: str,
    laws: tuple[Law | None, Law | None] = (None, None),  # of forgetting; of shift_as_prior
    *,
    styles: Styles | None = None,  # None: those of these results alone
    width: float = WIDE,
    limit: int = LIMIT,
) -> TippedFigure:
    """Both axes in one picture: forgetting and the change under a shift, against KL."""
    rows, _ = scatter_rows(results, limit).finite(change(place))
    other = words(place).other
    if not len(rows):
        raise ValueError(f"no checkpoint after step 0 was tested under the {other}")
    main = main_variant(rows)
    every = styles or arm_styles(results)
    styles = every.of(main.arms)
    figure = canvas(width, 6.4 if width > 5 else 7.0)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, column, law, sign in (
        (panels[0], "forgetting", laws[0], 100),
        (panels[1], change(place), laws[1], -100),
    ):
        for arm in main.arms:
            _dots(figure, axes, main.of_arms(arm), column, styles, marker_style(styles[arm], 4.2))
        others = rows.select(rows["variant"] != MAIN)
        for arm in others.arms:
            style = every.of([arm])
            mark = {"marker": ".", "ms": 3.5, "mec": style[arm].colour, "mfc": style[arm].colour}
            _dots(figure, axes, others.of_arms(arm), column, style, mark | {"mew": 0.0})
        axes.axhline(0, color=MUTED, lw=0.8, zorder=1)
        keys = []
        if law is not None:
            x, y = np.maximum(law.curve_x, 0), sign * law.curve_y
            keys += axes.plot(
                x, y, color=INK, lw=1.6, zorder=5, label=f"quadratic, R² {number(law.r2)}"
            )
        if axes is panels[0] and len(others):
            keys.append(Line2D([], [], ls="none", marker=".", ms=4, color=MUTED, label="variants"))
        if keys:
            axes.set_ymargin(0.12)
            corner = "upper left" if column == "forgetting" else "lower left"
            axes.legend(handles=keys, loc=corner, handletextpad=0.5)
    kl_axis(panels[1], rows[KL], label=kl_label(width))
    panels[0].set_ylabel("forgetting, points")
    panels[1].set_ylabel(f"change{' of success' * (width > 5)}, {other}, points")
    arm_legend(figure, styles, width)
    return figure


def _grid(
    curves: Curves,
    styles: Styles,
    label: str,
    tip: Tip,
    width: float,
    bands: bool = True,
) -> tuple[TippedFigure, np.ndarray]:
    """(figure, panels): a rule by a family, the other families' lines behind in grey."""
    shown = {task: found for task, found in curves.items() if any(c.arm for c in found)}
    if not shown:
        raise ValueError("no run has both measurements")
    styles = styles.of(list(dict.fromkeys(c.arm for f in shown.values() for c in f if c.arm)))
    rules = titles([task for task in curves if task != "new"])
    families = [f for f in FAMILIES if any(s.family == f for s in styles.values())]
    wide = width > 5
    shape = (len(shown), len(families)) if wide else (len(families), len(shown))
    figure = canvas(width, (2.3 if wide else 2.1) * shape[0] + (1.4 if wide else 2.0))
    panels = figure.subplots(*shape, sharex=True, squeeze=False)
    by_rule = panels if wide else panels.T  # rows are rules
    for i, ((task, found), row) in enumerate(zip(shown.items(), by_rule, strict=True)):
        for j, (family, axes) in enumerate(zip(families, row, strict=True)):
            for curve in found:
                style = styles.get(curve.arm)
                if style is not None and style.family != family:
                    axes.plot(curve.x, 100 * curve.y, color=LINE, lw=1.0, zorder=1)
                else:
                    _draw(figure, axes, curve, style, tip, bands)
            rule = rules[task].capitalize()
            above, beside = ((i, family), (j, rule)) if wide else ((j, rule), (i, family))
            if above[0] == 0:
                axes.set_title(above[1], loc="left")
            if beside[0] == 0:
                axes.set_ylabel(f"{beside[1]}\nsuccess, %", fontsize=8.5 if wide else 8.0)
            axes.tick_params(labelleft=j == 0 or not wide)
        limits = np.array([axes.get_ylim() for axes in row])
        for axes in row:
            axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels[-1]:
        axes.set_xlabel(label)
    arm_legend(figure, styles, width)
    return figure, panels


def _draw(
    figure: TippedFigure,
    axes: Axes,
    curve: Curve,
    style: ArmStyle | None,  # None: the base
    tip: Tip,
    bands: bool,
) -> None:
    colour = INK if style is None else style.colour
    x, y, low, high = curve.x, 100 * curve.y, 100 * curve.low, 100 * curve.high
    if bands and np.isfinite(low).any():
        axes.fill_between(x, low, high, color=colour, alpha=0.1, lw=0, zorder=2)
    elif np.isfinite(low[-1]):
        axes.vlines(x[-1:], low[-1:], high[-1:], color=colour, lw=1.2, zorder=2)
    dash = "--" if style is None else "-"
    axes.plot(x, y, color=colour, ls=dash, lw=1.6 if style is None else 1.3, zorder=3)
    mark: dict[str, Any] = {"marker": ".", "mec": INK, "mfc": INK}
    if style is not None:
        mark = marker_style(style, 4.2)
        mark["mfc"] = colour if style.filled else PAPER
    keep = [int(i) for i in np.flatnonzero(np.isfinite(x) & np.isfinite(y))]
    (dots,) = axes.plot(x[keep], y[keep], ls="none", zorder=4, **mark)
    figure.explain(dots, [tip(curve, i, "base" if style is None else style.name) for i in keep])


def _dots(figure, axes: Axes, rows: Results, column: str, styles, mark) -> None:
    x, y = np.maximum(rows[KL], 0), 100 * rows[column]
    (marks,) = axes.plot(x, y, ls="none", alpha=0.8, zorder=3, **mark)
    figure.explain(marks, run_tips(rows, styles))


def _tries_tip(curve: Curve, i: int, name: str) -> str:
    return f"{name}\nwithin {curve.x[i]:g} tries {_band(curve, i)}\n{curve.n_seeds} seeds"


def _path_tip(curve: Curve, i: int, name: str) -> str:
    return f"{name}\nsuccess {_band(curve, i)}\nat {curve.x[i]:.3g}\n{curve.n_seeds} seeds"


def _band(curve: Curve, i: int) -> str:
    text = f"{100 * curve.y[i]:.1f} %"
    if np.isfinite(curve.low[i]):
        text += f" [{100 * curve.low[i]:.1f}, {100 * curve.high[i]:.1f}]"
    return text
