"""The null curve as a picture: forgetting against KL, for directions and for methods."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rlrazor.analysis.hover import RC
from rlrazor.analysis.results import Results, load_results
from rlrazor.lines import FAMILY_MEANINGS, KL, Family

NOISE, LINES = "#7a818a", "#1b1f24"
COLOURS: Mapping[Family, str] = {"reward": "#0a74b0", "outside": "#d1560b", "near": "#9a55c0"}
LOW, HIGH = 0.01, 10.0


def draw(files: Mapping[str, Path], directions: Path) -> Figure:
    """Left: KL on the new task, right: KL on the prior task; a line a run, a mean a direction."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(8.0, 4.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        columns = {"new": KL, "prior": "prior/kl_base_policy_nats"}
        for axes, (what, column) in zip(panels, columns.items(), strict=True):
            for said, path in files.items():
                results = load_results(path)
                for name in np.unique(results["run"]):
                    run = results.select(results["run"] == name)
                    style = {"ls": ":" if said else "-", "color": COLOURS[run["family"][0]]}
                    axes.plot(run[column], 100 * run["forgetting"], lw=0.6, alpha=0.45, **style)
            untrained = load_results(directions)
            for arm in untrained.arms:
                at, mean = _mean(untrained.of_arms(arm), column)
                noise = not arm.startswith("line_")
                axes.plot(
                    at, 100 * mean, lw=2.4, color=NOISE if noise else LINES,
                    ls={"noise": "-", "noise_plain": "--", "line_sft1": "--"}.get(arm, "-"),
                    label=str(untrained.of_arms(arm)["label"][0]) if what == "new" else None,
                )  # fmt: skip
            axes.set_xscale("log")
            axes.set_xlim(LOW, HIGH)
            axes.set_xlabel(f"KL(base‖policy) on the {what} task, nats")
        panels[0].set_ylabel("forgetting, percentage points")
        for family, colour in COLOURS.items():
            panels[0].plot([], [], color=colour, label=f"training, {FAMILY_MEANINGS[family]}")
        panels[0].plot([], [], color=NOISE, ls=":", label="training with a KL anchor")
        figure.legend(loc="outside upper center", ncols=2, fontsize=7.5)
        return figure


def _mean(rows: Results, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Along a grid of KL, over runs: interpolated in its logarithm, as far as all of them go."""
    curves = []
    for name in np.unique(rows["run"]):
        run = rows.select((rows["run"] == name) & (rows["step"] > 0))
        along = np.maximum.accumulate(run[column])
        curves.append((np.log(np.maximum(along, 1e-9)), run["forgetting"]))
    top = min(float(x[-1]) for x, _ in curves)
    at = np.linspace(np.log(LOW), min(top, np.log(HIGH)), 60)
    return np.exp(at), np.mean([np.interp(at, x, y) for x, y in curves], axis=0)
