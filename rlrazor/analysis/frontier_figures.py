"""Methods against each other as pictures: frontiers, matched accuracy, flips, single steps.

The same conventions as figures.py: analysis objects in, a Figure with tips out, two widths.
Accuracy lost is drawn in percentage points, positive where prior tasks got worse.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from rlrazor.analysis.figures import (
    LIMIT,
    WIDE,
    canvas,
    marker_style,
    number,
    themed,
    thin,
    whiskers,
)
from rlrazor.analysis.flips import LESS, MORE, Cell, FlipMap
from rlrazor.analysis.frontier import Frontier, Matched
from rlrazor.analysis.hover import INK, LINE, MUTED, PAPER, TippedFigure
from rlrazor.analysis.statistics import Interval
from rlrazor.analysis.style import FAMILIES, ArmStyle, Styles
from rlrazor.analysis.trajectory import COSINE, KL_CHANGE, StepCorrelation, Trajectory

WORDS = {LESS: ("#0a74b0", "▼"), MORE: ("#d1560b", "▲")}  # any other word is undecided
MARKS = 7  # hover points along a frontier


@themed
def frontier_figure(
    entries: Sequence[Frontier], styles: Styles, *, width: float = WIDE
) -> TippedFigure:
    """Prior accuracy that each method keeps at a new-task accuracy, with bands over seeds.

    One panel a family; the other families' lines stay behind in grey, so panels compare.
    """
    drawable = [shared for entry in entries if (shared := _shared_part(entry)) is not None]
    if not drawable:
        raise ValueError("no method gained on the new task: there is no frontier to draw")
    styles = styles.of([entry.arm for entry in drawable])
    families = [f for f in FAMILIES if any(s.family == f for s in styles.values())]
    lines, columns = (1, len(families)) if width > 5 else (len(families), 1)
    figure = canvas(width, 3.9 if width > 5 else 2.9 * lines + 0.3)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for family, axes in zip(families, panels, strict=True):
        handles = []
        for entry in drawable:
            style = styles[entry.arm]
            if style.family != family:
                axes.plot(entry.new_accuracy, entry.prior_accuracy, color=LINE, lw=1.0, zorder=1)
            else:
                handles.append(_frontier(figure, axes, entry, style))
        axes.set_title(family, loc="left")
        axes.legend(handles=handles, loc="lower left", labelspacing=0.25, borderaxespad=0.1)
    low = min(np.nanmin(entry.prior_accuracy) for entry in drawable)
    high = max(np.nanmax(entry.prior_accuracy) for entry in drawable)
    panels[0].xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_ylim(
        low - 0.42 * (high - low) - 1e-3, min(1.0, high + 0.06 * (high - low) + 1e-3)
    )
    figure.supxlabel("new-task accuracy of at least", fontsize=9)
    figure.supylabel("best prior-task accuracy kept", fontsize=9)
    return figure


@themed
def matched_figure(
    entries: Sequence[Matched], styles: Styles, *, width: float = WIDE
) -> TippedFigure:
    """Forgetting of each method at one new-task accuracy: best run above, typical run below."""
    shown = [e for e in entries if np.isfinite([e.best.estimate, e.typical.estimate]).any()]
    if not shown:
        raise ValueError("no method reaches the matched accuracy")
    shown = sorted(shown, key=lambda e: (not np.isfinite(e.best.estimate), e.best.estimate))
    figure = canvas(width, 0.36 * len(shown) + 1.2)
    axes = figure.subplots()
    for y, entry in enumerate(shown):
        style = styles[entry.arm]
        for reading, shift, bar in (("best", -0.14, 2.6), ("typical", 0.2, 1.2)):
            interval = getattr(entry, reading)
            if not np.isfinite(interval.estimate):
                continue
            at = np.array([y + shift])
            whiskers(axes, [interval], at, style.colour, scale=100, lw=bar)
            mark = (
                marker_style(style, 7.0)
                if reading == "best"
                else {"marker": "|", "ms": 8, "mew": 1.6, "mec": style.colour}
            )
            if reading == "best" and not style.filled:
                mark["mfc"] = PAPER
            (dot,) = axes.plot([100 * interval.estimate], at, ls="none", zorder=3, **mark)
            figure.explain(
                dot,
                [
                    f"{style.name}, {reading} run\nforgetting points: {points(interval)}\n"
                    f"at new-task accuracy {entry.target:.3f}\n"
                    f"{entry.n_runs_reaching} of {entry.n_runs} runs reach it"
                ],
            )
    axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
    axes.set_yticks(range(len(shown)), [styles[entry.arm].name for entry in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(*np.clip(axes.get_xlim(), -100, 100))  # no accuracy changes by more
    axes.grid(visible=False, axis="y")
    figure.supxlabel(f"forgetting at new-task accuracy {shown[0].target:.3f}, points", fontsize=9)
    keys = [
        Line2D([], [], marker="o", color=INK, lw=2.6, ms=7, label="best run"),
        Line2D([], [], marker="|", color=INK, lw=1.2, ms=8, mew=1.6, label="typical run"),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2)
    return figure


@themed
def flip_figure(flips: FlipMap, styles: Styles, *, width: float = WIDE) -> TippedFigure:
    """Heat map of RL's excess forgetting over the best SFT run; a sign and a number in each cell.

    The learning rate (else the axis with most values) runs along the page, the others across it.
    """
    if not flips.cells:
        raise ValueError("no RL run can be compared with an SFT run from the same base")
    values = [list(dict.fromkeys(cell.values[k] for cell in flips.cells)) for k in _axes(flips)]
    long = max(_axes(flips), key=lambda k: (flips.axes[k].endswith("rate"), len(values[k])))
    rest = [k for k in _axes(flips) if k != long]
    across = list(dict.fromkeys(tuple(c.values[k] for k in rest) for c in flips.cells))
    along = sorted(values[long], key=lambda v: (isinstance(v, str), v is None, v or 0))
    grid = {(c.values[long], tuple(c.values[k] for k in rest)): c for c in flips.cells}
    scale = max((abs(c.over_frontier.estimate) for c in flips.cells if _compared(c)), default=1.0)

    sideways = width <= 5  # a phone has its length downwards
    shape = (len(along), len(across)) if sideways else (len(across), len(along))
    figure = canvas(width, 0.42 * shape[0] + (1.5 if sideways else 1.1))
    axes = figure.subplots()
    small = 7.0 if max(shape[1] * (1 if sideways else 0.5), 1) > 6 else 8.5
    for (value, other), cell in grid.items():
        row, column = across.index(other), along.index(value)
        if sideways:
            row, column = column, row
        _tile(figure, axes, cell, (column, row), scale, small, _cell_tip(flips, cell, styles))
    labels = [axis_value(flips.axes[long], v, styles) for v in along]
    titles = [
        "\n".join(axis_label(flips.axes[k], v, styles) for k, v in zip(rest, o, strict=True))
        for o in across
    ]
    if not sideways:
        titles = [title.replace("\n", " · ") for title in titles]
    for axis, texts in ((axes.yaxis, labels if sideways else titles),
                        (axes.xaxis, titles if sideways else labels)):  # fmt: skip
        axis.set_ticks(range(len(texts)), texts)
    if len(titles if sideways else labels) > (3 if sideways else 6):
        axes.tick_params(axis="x", rotation=50)
    (axes.set_ylabel if sideways else axes.set_xlabel)(axis_name(flips.axes[long]))
    axes.set_xlim(-0.5, shape[1] - 0.5)
    axes.set_ylim(shape[0] - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@themed
def trajectory_figure(
    trajectory: Trajectory,
    styles: Styles,
    correlations: Sequence[StepCorrelation] = (),
    *,
    width: float = WIDE,
    limit: int = LIMIT,
) -> TippedFigure:
    """Cosine of update and prior-task gradient against the step's KL change: Figure 10."""
    if len(trajectory) == 0:
        raise ValueError("trajectory.jsonl has no step with finite values")
    styles = styles.of(trajectory.arms)
    kept = thin(trajectory[KL_CHANGE], trajectory["arm"], limit)
    rho = {entry.arm: entry.correlation for entry in correlations}
    columns = {1: 1, 2: 2, 4: 2}.get(len(styles), 3) if width > 5 else 1
    lines = -(-len(styles) // columns)
    figure = canvas(width, 2.7 * lines + 0.5)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)  # KL steps differ tenfold
    for arm, axes in zip(styles, panels.flat, strict=False):
        rows = kept[trajectory["arm"][kept] == arm]
        x, y = trajectory[KL_CHANGE][rows], trajectory[COSINE][rows]
        axes.axhline(0, color=MUTED, lw=0.8, zorder=1)
        axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
        (marks,) = axes.plot(x, y, ls="none", alpha=0.75, **marker_style(styles[arm], 3.6))
        figure.explain(marks, [_step_tip(trajectory, i, styles[arm]) for i in rows])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.2g}"))
        note = f"\nrank correlation {number(rho[arm])}" if arm in rho else ""
        axes.set_title(f"{styles[arm].name}{note}", loc="left")
    for axes in panels.flat[len(styles) :]:
        axes.set_visible(False)
    figure.supxlabel("change of KL(base‖policy) in one step, nats", fontsize=9)
    figure.supylabel("cosine of update and prior-loss gradient", fontsize=9)
    return figure


def _shared_part(entry: Frontier) -> Frontier | None:
    """The part that every seed reaches: where seeds drop out, the mean is of other bases."""
    keep = (entry.n_seeds == np.max(entry.n_seeds)) & np.isfinite(entry.prior_accuracy)
    if not keep.any():
        return None
    columns = {
        name: getattr(entry, name)[keep]
        for name in ("new_accuracy", "prior_accuracy", "low", "high", "n_seeds")
    }
    return replace(entry, **columns)


def _frontier(figure: TippedFigure, axes: Axes, entry: Frontier, style: ArmStyle) -> Line2D:
    x, y = entry.new_accuracy, entry.prior_accuracy
    if np.isfinite(entry.low).any():
        axes.fill_between(x, entry.low, entry.high, color=style.colour, alpha=0.14, lw=0, zorder=2)
    axes.plot(x, y, color=style.colour, lw=1.6, zorder=3)
    (reached,) = np.nonzero(np.isfinite(y))
    picks = reached[np.unique(np.round(np.linspace(0, len(reached) - 1, MARKS)).astype(int))]
    mark = marker_style(style, 4.5)
    mark["mfc"] = mark["mfc"] if style.filled else PAPER
    (dots,) = axes.plot(x[picks], y[picks], ls="none", zorder=4, **mark)
    figure.explain(
        dots,
        [
            f"{style.name}\nnew-task accuracy ≥ {x[i]:.3f}\nprior accuracy kept {y[i]:.3f}"
            + (f" [{entry.low[i]:.3f}, {entry.high[i]:.3f}]" if np.isfinite(entry.low[i]) else "")
            + f"\n{entry.n_seeds[i]} seeds, {entry.n_runs} runs"
            for i in picks
        ],
    )
    return Line2D([], [], color=style.colour, lw=1.6, label=f" {style.name}", **mark)


def _tile(figure, axes: Axes, cell: Cell, at, scale: float, size: float, tip: str) -> None:
    """One square: hue and symbol for the word, strength for the amount."""
    excess = cell.over_frontier.estimate
    colour, depth, text = LINE, 0.35, "out of\nreach"
    if _compared(cell):
        colour, symbol = WORDS.get(cell.word, (LINE, "?"))
        if cell.word in WORDS:
            depth = 0.15 + 0.5 * min(1.0, abs(excess) / scale)
        text = f"{symbol}\n{100 * excess:+.1f}"
    else:
        size -= 1.0
    tile = Rectangle((at[0] - 0.48, at[1] - 0.46), 0.96, 0.92, lw=0, zorder=2)
    tile.set_facecolor((*to_rgb(colour), depth))
    axes.add_patch(tile)
    figure.explain(tile, [tip])
    axes.text(
        at[0], at[1], text, ha="center", va="center", fontsize=size, linespacing=1.0, zorder=3
    )


def _cell_tip(flips: FlipMap, cell: Cell, styles: Styles) -> str:
    knobs = [axis_label(a, v, styles) for a, v in zip(flips.axes, cell.values, strict=True)]
    return "\n".join(
        [
            *knobs,
            f"against the best SFT run, points: {points(cell.over_frontier)}",
            f"against the typical SFT run, points: {points(cell.over_typical)}",
            f"{cell.n_runs} RL runs, {cell.n_beyond_reach} more accurate than any SFT run",
            f"verdict: {cell.word}",
        ]
    )


def _step_tip(trajectory: Trajectory, i: int, style: ArmStyle) -> str:
    return (
        f"{style.name}\nseed {trajectory['seed'][i]} · step {trajectory['step'][i]}\n"
        f"cosine {trajectory[COSINE][i]:.3f}\n"
        f"KL change {trajectory[KL_CHANGE][i]:.3g} nats\nrun {trajectory['run'][i]}"[:300]
    )


def _axes(flips: FlipMap) -> range:
    return range(len(flips.axes))


def points(interval: Interval) -> str:
    """An accuracy difference in percentage points, with its interval and number of seeds."""
    return interval.text(scale=100, digits=1)


def _compared(cell: Cell) -> bool:
    return bool(np.isfinite(cell.over_frontier.estimate))


def axis_name(axis: str) -> str:
    return axis.removeprefix("hyperparameters/").replace("_", " ")


def axis_label(axis: str, value: object, styles: Styles) -> str:
    """E.g. 'base epochs 5'; an arm needs no such introduction."""
    text = axis_value(axis, value, styles)
    return text if axis == "arm" else f"{axis_name(axis)} {text}"


def axis_value(axis: str, value: object, styles: Styles) -> str:
    if axis == "arm":
        return styles[str(value)].name
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "not given"
    return f"{float(value):.2g}" if isinstance(value, float | int) else str(value)[:28]
