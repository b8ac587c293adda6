"""Makes each mark of a matplotlib figure say which run it is, in SVG that a page can hold inline.

Matplotlib writes a group of marks as `<g id=gid>` with one `<use>` or `<path>` a mark, in drawing
order. `TippedFigure` remembers one text a mark; `inline_svg` and `standalone_svg` walk the SVG and
attach them, and refuse if the numbers differ, so a tip never lands on the wrong run.
"""

import contextlib
import copy
import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlrazor.analysis.results import Results
from rlrazor.analysis.shift_words import words
from rlrazor.analysis.style import ArmStyle
from rlrazor.lines import KL

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

# Figures are drawn in these four; inline they become CSS variables, so that a dark page is dark.
THEME = {"#1b1f24": "--ink", "#5c6570": "--muted", "#d3d8de": "--line", "#ffffff": "--paper"}
INK, MUTED, LINE, PAPER = THEME

# For drawing and for rendering: matplotlib reads some at one time, some at the other. Names come
# from results, so a "$" in one is a dollar, not mathematics.
RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: light, searchable, and in the page's own font
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}

# XML 1.0 has no way to write these, and a name in somebody's results may hold them.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Of an SVG that ElementTree wrote: quotes and brackets inside a value are escaped.
_TAG = re.compile("<[^>]+>")
_IDS = re.compile(r' id="| href="#| clip-path="url\(#')


class TippedFigure(Figure):
    """A Figure that knows the text of its marks; notebooks show it as SVG with native tooltips."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        FigureCanvasAgg(self)  # no pyplot: nothing global, safe in threads and in notebooks
        self.tips: dict[str, tuple[str, ...]] = {}

    def explain(self, artist: Artist, tips: Sequence[str]) -> None:
        """Gives the marks of `artist`, in the order drawn, one text each."""
        gid = f"tips-{len(self.tips)}"
        artist.set_gid(gid)
        self.tips[gid] = tuple(tips)

    def _repr_svg_(self) -> str:
        return standalone_svg(self)


def standalone_svg(figure: Figure) -> str:
    """Returns the SVG file: no date in it, tips as `<title>`, which viewers show by themselves."""
    return _standalone(_tree(figure), figure)


def inline_svg(figure: Figure, *, name: str, alt: str) -> str:
    """Returns an `<svg>` element for a page: ids start with `name`, tips are `data-tip`.

    Ids are prefixed because all figures of one page share its namespace.
    """
    return _inline(_tree(figure), figure, name, alt)


def both_svgs(figure: Figure, *, name: str, alt: str) -> tuple[str, str]:
    """(inline_svg, standalone_svg) from one rendering, after which the layout is fixed.

    Drawing and layout are the dear part of a report; a picture file of the same figure then costs
    neither a second time.
    """
    root = _tree(figure)
    figure.set_layout_engine("none")
    return _inline(copy.deepcopy(root), figure, name, alt), _standalone(root, figure)


def _standalone(root: ET.Element, figure: Figure) -> str:
    for mark, tip in _marks(root, figure):
        ET.SubElement(mark, f"{{{SVG}}}title").text = tip
    return ET.tostring(root, encoding="unicode") + "\n"


def _inline(root: ET.Element, figure: Figure, name: str, alt: str) -> str:
    for mark, tip in _marks(root, figure):
        mark.set("data-tip", tip)
    for element in root.iter():
        _prefix_ids(element, f"{name}-")
    for key in ("width", "height"):
        root.attrib.pop(key, None)  # the viewBox stays: the page decides the size
    root.set("role", "img")
    root.set("aria-label", _UNWRITABLE.sub("\ufffd", alt))
    text = ET.tostring(root, encoding="unicode")
    for colour, variable in THEME.items():
        text = re.sub(rf"(:\s*){colour}\b", rf"\1var({variable})", text)
    return text


def prefix_ids(svg: str, prefix: str) -> str:
    """Returns an inline SVG whose ids and references to them start with `prefix` as well."""
    return _TAG.sub(lambda tag: _IDS.sub(rf"\g<0>{prefix}", tag[0]), svg)


def png(figure: Figure, *, dpi: int = 160) -> bytes:
    """Renders the picture file that stands beside the report."""
    buffer = io.BytesIO()
    with _rendering():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def run_tips(results: Results, styles: Mapping[str, ArmStyle]) -> list[str]:
    """One text a row: which run it is and what was measured there."""
    columns = [*_TIP_COLUMNS, *(f"{p}/{what}" for p in results.shifts for what in _SHIFTED)]
    name = {column: results[column] for column in columns if column in results}
    return [
        "\n".join(_tip_lines({k: v[i] for k, v in name.items()}, styles))
        for i in range(len(results))
    ]


_TIP_COLUMNS = (
    *("run", "arm", "seed", "step", "final", "gain", "forgetting", "new/accuracy", KL),
    *("hyperparameters/learning_rate", "hyperparameters/schedule", "hyperparameters/epochs"),
    "hyperparameters/base_epochs",
)


_SHIFTED = ("accuracy", "change")


def _tip_lines(row: Mapping[str, Any], styles: Mapping[str, ArmStyle]) -> list[str]:
    def knob(name: str, text: str) -> str | None:
        value = row.get(f"hyperparameters/{name}")
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        return None if missing else text.format(f"{value:g}" if _is_number(value) else value)

    knobs = (
        knob("learning_rate", "learning rate {}"),
        knob("schedule", "{}"),
        knob("epochs", "epochs {}"),
        knob("base_epochs", "base epochs {}"),
    )
    shifts = [name.removesuffix("/change") for name in row if name.endswith("/change")]
    return [
        styles[row["arm"]].name,
        " · ".join(text for text in knobs if text) or "hyperparameters not given",
        f"seed {row['seed']} · step {row['step']}{' (last)' if row['final'] else ''}",
        f"new-task accuracy {row['new/accuracy']:.3f} ({row['gain']:+.3f})",
        *(
            f"{words(p).other} {row[f'{p}/accuracy']:.3f} ({row[f'{p}/change']:+.3f})"
            for p in shifts
            if math.isfinite(row[f"{p}/change"])
        ),
        f"forgetting {100 * row['forgetting']:.1f} points",
        f"KL(base‖policy) {row[KL]:.3g} nats",
        f"run {row['run']}"[:100],
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)


@contextlib.contextmanager
def _rendering() -> Iterator[None]:
    """Our settings; a script that the font lacks is drawn by the page's font, so no warning."""
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def _tree(figure: Figure) -> ET.Element:
    """Renders to a parsed SVG without prolog, metadata or date; the same figure, the same bytes."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    buffer = io.StringIO()
    with _rendering(), mpl.rc_context({"svg.hashsalt": "rlrazor"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(_UNWRITABLE.sub("\ufffd", buffer.getvalue()))
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        _lighten(element)
        _hoist_style(element)
    return root


def _marks(root: ET.Element, figure: Figure) -> list[tuple[ET.Element, str]]:
    """Pairs every mark with its text."""
    tips = figure.tips if isinstance(figure, TippedFigure) else {}
    groups = {gid: g for g in root.iter(f"{{{SVG}}}g") if (gid := g.get("id")) in tips}
    pairs: list[tuple[ET.Element, str]] = []
    for gid, texts in tips.items():
        group = groups.get(gid)
        marks = [] if group is None else _drawn(group)
        if len(marks) != len(texts):
            raise ValueError(
                f"figure group {gid} drew {len(marks)} marks for {len(texts)} tips; drop points "
                "that are not finite or lie outside the axes before plotting"
            )
        pairs += [(m, _UNWRITABLE.sub("\ufffd", t)) for m, t in zip(marks, texts, strict=True)]
    return pairs


def _drawn(group: ET.Element) -> list[ET.Element]:
    """The marks of a group in drawing order; definitions are not drawn."""
    uses: list[ET.Element] = []
    paths: list[ET.Element] = []

    def walk(element: ET.Element) -> None:
        for child in element:
            if child.tag == f"{{{SVG}}}use":
                uses.append(child)
            elif child.tag == f"{{{SVG}}}path":
                paths.append(child)
            elif child.tag != f"{{{SVG}}}defs":
                walk(child)

    walk(group)
    return uses or paths


def _prefix_ids(element: ET.Element, prefix: str) -> None:
    """Prefixes an id and references to ids; matplotlib refers by href and by clip-path only."""
    if "id" in element.attrib:
        element.set("id", prefix + element.attrib["id"])
    target = element.attrib.pop(f"{{{XLINK}}}href", None)
    if target is not None:
        element.set("href", target.replace("#", f"#{prefix}", 1))
    if "clip-path" in element.attrib:
        element.set("clip-path", element.attrib["clip-path"].replace("url(#", f"url(#{prefix}"))


def _lighten(element: ET.Element) -> None:
    """Shortens coordinates, and frees definitions of a style that each `<use>` states anyway."""
    for key in ("x", "y"):
        if element.tag == f"{{{SVG}}}use" and key in element.attrib:
            element.set(key, f"{float(element.attrib[key]):.1f}")
    if "d" in element.attrib:  # a hundredth of a point is finer than any screen
        element.set("d", re.sub(r"(\.\d\d)\d+", r"\1", element.attrib["d"]))
    if element.tag == f"{{{SVG}}}defs":
        for child in element.findall(f"{{{SVG}}}path"):
            child.attrib.pop("style", None)  # inherited from the <use>, so a page can restyle it


def _hoist_style(parent: ET.Element) -> None:
    """Moves a style that all `<use>` of a group share to the group: half the bytes of a scatter."""
    uses = parent.findall(f"{{{SVG}}}use")
    styles = {use.get("style") for use in uses}
    if len(uses) > 1 and len(uses) == len(parent) and len(styles) == 1 and None not in styles:
        parent.set("style", f"{parent.get('style', '')}{styles.pop()}")
        for use in uses:
            use.attrib.pop("style")
