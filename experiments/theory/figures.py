"""Figures of theory.jsonl; every function draws on the axes it is given."""

import json
import pathlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

COLOURS = {
    "alternation": "#1b7837",
    "natural policy gradient": "#2166ac",
    "policy gradient": "#b2182b",
    "policy gradient, rescaled start": "#f4a582",
    "std-normalised (GRPO)": "#e08214",
    "1-0 REINFORCE, sampled": "#762a83",
    "centred advantages, sampled": "#999999",
    "alternation after SFT on arbitrary correct labels": "#8c510a",
    "limit of policy gradient": "#b2182b",
}


def load(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pick(records: list[dict], figure: str) -> dict[str, list[dict]]:
    """The curves or traces of one panel, by series."""
    chosen: dict[str, list[dict]] = {}
    for record in records:
        if record.get("figure") == figure:
            chosen.setdefault(record["series"], []).append(record)
    return chosen


def draw_curves(ax: Axes, records: list[dict], figure: str, skip: tuple[str, ...] = ()) -> None:
    """Medians over runs, quartiles shaded."""
    for name, points in pick(records, figure).items():
        points = [p for p in points if p["y"] is not None]
        if name in skip or not points:
            continue
        if len(points) == 1:
            ax.plot(points[0]["x"], points[0]["y"], "*", ms=11, label=name, color=COLOURS.get(name))
            continue
        x, y, low, high = (np.array([p[k] for p in points]) for k in ("x", "y", "low", "high"))
        dashes = "--" if name == "std-normalised (GRPO)" else "-"
        ax.plot(x, y, dashes, marker="o", ms=3, label=name, color=COLOURS.get(name))
        ax.fill_between(x, low, high, alpha=0.15, color=COLOURS.get(name), lw=0)


def draw_simplex(ax: Axes, records: list[dict]) -> None:
    """Paths on the triangle of three actions; the bottom edge is the optimal set."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    ax.fill(*corners.T, fill=False, lw=0.8, color="0.5")
    for name, (record,) in pick(records, "simplex").items():
        x, y = (np.array(record["points"]) @ corners).T
        if name == "alternation":
            arrow = {"arrowstyle": "->", "color": COLOURS[name], "lw": 3.5, "alpha": 0.5}
            ax.annotate("", (x[1], y[1]), (x[0], y[0]), arrowprops=arrow)
            ax.plot(x[1], y[1], "*", ms=13, color=COLOURS[name], label="alternation: pi_dagger")
            ax.plot(x[0], y[0], "ko", ms=5, label="pi0")
        else:
            sampled = "sampled" in name
            ax.plot(
                x, y, lw=0.8 if sampled else 1.8, color=COLOURS[name], label=name,
                ls="-" if sampled or name == "policy gradient" else "--", zorder=3,
            )  # fmt: skip
    for corner, text, shift in zip(
        corners,
        ("correct a", "correct b", "wrong"),
        ((-12, -14), (-12, -14), (-14, 5)),
        strict=True,
    ):
        ax.annotate(text, corner, xytext=shift, textcoords="offset points", fontsize=8)
    ax.set(aspect="equal", title="From pi0 to the optimal edge")
    ax.axis("off")
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(-0.12, 1.0), frameon=False)


def draw_tabular(axes: np.ndarray, records: list[dict]) -> None:
    draw_simplex(axes[0, 0], records)
    draw_curves(axes[0, 1], records, "gap")
    axes[0, 1].set(
        xscale="log", xlabel="1 - J", ylabel="KL(pi(.|correct) || pi_dagger), nats",
        title="Exact flows, random pi0 (median, quartiles)",
    )  # fmt: skip
    axes[0, 1].invert_xaxis()
    draw_curves(axes[0, 2], records, "m steps")
    axes[0, 2].set(
        xscale="log", xlabel="gradient steps per I-projection", ylabel="KL gap at 1-J = 0.01, nats",
        title="Policy gradient is the first of many M-steps",
    )  # fmt: skip
    draw_curves(axes[1, 0], records, "learning rate", skip=("std-normalised (GRPO)",))
    axes[1, 0].set(
        xscale="log", xlabel="learning rate", ylabel="KL gap at 1 - J = 0.01, nats",
        title="No learning rate repairs it",
    )  # fmt: skip
    draw_curves(axes[1, 1], records, "drift")
    axes[1, 1].set(
        xscale="log", xlabel="step", ylabel="KL gap, nats", title="Groups of samples: drift"
    )
    draw_curves(axes[1, 2], records, "direction")
    axes[1, 2].set(
        xscale="log", xlabel="1 - J", ylabel="nats", title="The direction gap, pi0 exp(tR)"
    )
    axes[1, 2].invert_xaxis()
    for ax in axes.ravel()[1:]:
        if len(ax.lines) > 1:
            ax.legend(fontsize=7, frameon=False)


def draw_log_linear(axes: np.ndarray, records: list[dict]) -> None:
    titles = {"farther": "Two optima: the farther is reached", "stalled": "Stalls below J = 1"}
    for ax, (name, title) in zip(axes[:2], titles.items(), strict=True):
        series = pick(records, name)
        ax.plot(*np.array(series["family"][0]["points"]).T, color="0.6", label="family")
        path = np.array(series["alternation"][0]["points"])
        path = path[np.abs(path[:, 0]) < 6]
        ax.plot(*path.T, "o-", ms=4, color=COLOURS["alternation"], label="alternation")
        ax.plot(*path[0], "ko", ms=5, label="pi0")
        ax.axvspan(5.7, 6, color="#fee08b", label="towards pi_dagger")
        ax.set(xlabel="theta", ylabel="J", title=title, xlim=(-6, 6))
        ax.legend(fontsize=7, frameon=False)
    for ax, kind in zip(axes[2:], ("a face", "not a face"), strict=True):
        for name, (record,) in pick(records, kind).items():
            points = np.array(record["points"]).reshape(-1, 2)
            ax.step(*points.T, where="post", label=name, color=COLOURS[name])
        ax.set(
            xlabel="KL(pi||pi0) above the closest, nats", ylabel="share of random families",
            title=f"Correct set {kind}", ylim=(0, 1.02),
        )  # fmt: skip
        ax.set_xscale("symlog", linthresh=1e-2)
        ax.set_xlim(left=-1e-3)
    axes[3].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1))


def draw_curved(axes: np.ndarray, records: list[dict]) -> None:
    draw_curves(axes[0], records, "mixture")
    axes[0].set(
        xlabel="share of the first solving component in pi0", ylabel="excess KL, nats",
        title="Mixture family, by start (median, quartiles)", ylim=(0, None),
    )  # fmt: skip
    series = pick(records, "network")
    for row, (name, points) in enumerate(series.items()):
        values = [p["y"] for p in points if p["y"] is not None]
        axes[1].plot(values, [row] * len(values), "o", alpha=0.6, color=COLOURS[name])
    axes[1].set(
        yticks=range(len(series)), yticklabels=list(series), xlabel="excess KL found, nats",
        title="ReLU network, one point a start", ylim=(-0.6, len(series) - 0.4),
    )  # fmt: skip


def draw(records: list[dict], folder: pathlib.Path) -> list[str]:
    """Writes theory_{tabular,log_linear,curved}.{png,svg}; returns the stems."""
    layouts = {
        "theory_tabular": (draw_tabular, (2, 3), (13, 8)),
        "theory_log_linear": (draw_log_linear, (1, 4), (19, 4)),
        "theory_curved": (draw_curved, (1, 2), (11, 4)),
    }
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        for stem, (draw_panels, shape, size) in layouts.items():
            figure, axes = plt.subplots(*shape, figsize=size, layout="constrained")
            draw_panels(axes, records)
            figure.savefig(folder / f"{stem}.png", dpi=120)
            figure.savefig(folder / f"{stem}.svg")
            plt.close(figure)
    return list(layouts)
