"""The frontier over learning rates as a picture: what each gain cost, and what it was worth."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rlrazor.analysis import gain
from rlrazor.analysis.figures import WIDE, canvas, marker_style, number, themed
from rlrazor.analysis.gain import AtGain, Setting
from rlrazor.analysis.hover import MUTED, TippedFigure
from rlrazor.analysis.results import Results
from rlrazor.analysis.shift_words import words
from rlrazor.analysis.style import Styles

STEPS = 41  # gains along a line
TICKS = (-2, -1, 0, 1, 2, 5, 10, 20, 50, 100)


@themed
def gain_figure(
    results: Results,
    entries: Sequence[AtGain],
    styles: Styles,
    *,
    width: float = WIDE,
) -> TippedFigure:
    """Against the gain: forgetting, and the change under each shift, a panel each.

    Thin: every learning rate of an arm, a mean over the units that it was run from, as far as all
    of them reach. Marks: `entries`, at the rates that were chosen, with intervals over units.
    """
    shown = [entry for entry in entries if entry.reached]
    if not shown:
        raise ValueError("no method reaches any of the gains")
    styles = styles.of([arm for arm in results.arms if arm in {e.arm for e in entries}])
    names = gain.quantities(results)
    across = len(names) if width > 5 else 1
    figure = canvas(width, 4.0 if width > 5 else 3.0 * len(names) + 0.6)
    panels = figure.subplots(-(-len(names) // across), across, sharex=True, squeeze=False)
    for name, axes in zip(names, panels.flat, strict=True):
        for arm, style in styles.items():
            for setting, at, values in _lines(results.of_arms(arm), entries[0].seeds, name):
                axes.plot(100 * at, 100 * values, color=style.colour, lw=1.0, alpha=0.7)
                axes.annotate(
                    " ".join(setting), (100 * at[-1], 100 * values[-1]), xytext=(3, 0),
                    textcoords="offset points", fontsize=7, va="center", color=style.colour,
                )  # fmt: skip
        for entry in shown:
            _mark(figure, axes, entry, name, styles, places=len(styles))
        axes.axhline(0, color=MUTED, lw=0.8, zorder=1)
        axes.set_title(_title(name), loc="left")
        axes.set_xmargin(0.1)  # room for the learning rates
        if name == gain.FORGETTING:  # from a point to all that was known
            axes.set_yscale("symlog", linthresh=2.0)
            axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axes.set_ylim(-2.0, 100.0)
    place = (results.shifts or ("",))[0]
    figure.supxlabel(f"gain, {words(place).trained}, points", fontsize=9)
    handles = [
        Line2D([], [], color=style.colour, label=style.name, **marker_style(style, 6.0))
        for style in styles.values()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4 if width > 5 else 2)
    return figure


def _title(name: str) -> str:
    if name == gain.FORGETTING:
        return "Forgetting, points"
    return f"Change under the {words(name.removesuffix('/change')).other}, points"


def _mark(
    figure: TippedFigure, axes: Axes, entry: AtGain, name: str, styles: Styles, *, places: int
) -> None:
    style = styles[entry.arm]
    beside = 0.25 * ([*styles].index(entry.arm) - (places - 1) / 2)  # so that bars do not overlap
    interval = entry.mean(name).interval()
    x, y = 100 * entry.gain + beside, 100 * interval.estimate
    if interval.known:
        axes.vlines(x, 100 * interval.low, 100 * interval.high, color=style.colour, lw=1.6)
    (dot,) = axes.plot([x], [y], ls="none", zorder=3, **marker_style(style, 6.5))
    figure.explain(
        dot,
        [
            f"{style.name}, gain {100 * entry.gain:g}\npoints: {number(interval, 100, 1)}\n"
            f"{entry.reached} of {len(entry.seeds)} reach it\nrate {chosen_rates(entry)}"
        ],
    )


def chosen_rates(entry: AtGain) -> str:
    """The settings that were chosen, most frequent first, e.g. "0.0001" or "0.0001, 0.001"."""
    found = [" ".join(setting) for setting in entry.settings if setting is not None]
    return ", ".join(sorted(set(found), key=lambda text: (-found.count(text), text))) or "none"


def _lines(
    arm: Results, seeds: Sequence[int], name: str
) -> list[tuple[Setting, np.ndarray, np.ndarray]]:
    """(setting, gains f64[STEPS], mean values f64[STEPS]) of each setting of an arm."""
    mine = arm.select(np.isin(arm["seed"], seeds)).finite("gain", gain.FORGETTING)[0]
    settings: dict[Setting, list[Results]] = {}
    for setting, run in gain.by_setting(mine):
        settings.setdefault(setting, []).append(run)
    lines = []
    for setting, runs in settings.items():
        top = min(float(np.max(run["gain"])) for run in runs)
        if top <= 0:
            continue
        at = np.linspace(0, top, STEPS)
        lines.append((setting, at, np.mean([_along(run, name, at) for run in runs], axis=0)))
    return lines


def _along(run: Results, name: str, at: np.ndarray) -> np.ndarray:
    """The value where the run first reaches each gain."""
    rows = run.select(np.asarray(run["step"]) > 0)
    gains = np.concatenate([[0.0], rows["gain"]])
    values = np.concatenate([[0.0], rows[name]])
    best = np.maximum.accumulate(gains)
    first = np.concatenate([[True], gains[1:] > best[:-1]])  # checkpoints that set a record
    return np.interp(at, gains[first], values[first])
