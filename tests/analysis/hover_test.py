import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from rlrazor.analysis.hover import (
    RC,
    THEME,
    TippedFigure,
    both_svgs,
    inline_svg,
    png,
    prefix_ids,
    run_tips,
    standalone_svg,
)
from rlrazor.analysis.results import load_results
from rlrazor.analysis.style import arm_styles
from tests.oracles import synthetic_results

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('x')</script> & \"$\\frac$ \x00 \u4e2d ]]>"


def drawing(tips=("a", "b", "c"), marker="o", title="plain"):
    figure = TippedFigure(figsize=(3, 2))
    axes = figure.subplots()
    (line,) = axes.plot(np.arange(3.0), np.arange(3.0), marker, label=" x")
    axes.set_title(title, parse_math=False)
    figure.explain(line, tips)
    return figure


def tip_attributes(svg):
    return [e.get("data-tip") for e in ET.fromstring(svg).iter() if e.get("data-tip") is not None]


@pytest.mark.parametrize("marker", ["o", "s", "*", "X", "h"])
def test_every_mark_carries_its_own_tip_in_drawing_order(marker):
    figure = drawing(marker=marker)
    root = ET.fromstring(inline_svg(figure, name="f", alt=""))
    marks = [e for e in root.iter() if e.get("data-tip") is not None]
    assert [m.get("data-tip") for m in marks] == ["a", "b", "c"]
    x = [float(m.get("x") or "nan") for m in marks]
    assert x == sorted(x)
    assert len(set(x)) == 3


def test_patches_carry_tips_too():
    figure = TippedFigure(figsize=(3, 2))
    axes = figure.subplots()
    for i, bar in enumerate(axes.bar([0, 1], [1, 2])):
        figure.explain(bar, [f"bar {i}"])
    assert tip_attributes(inline_svg(figure, name="f", alt="")) == ["bar 0", "bar 1"]


def test_the_file_shows_tips_as_titles_and_so_do_notebooks():
    figure = drawing()
    titles = [e.text for e in ET.fromstring(standalone_svg(figure)).iter(f"{SVG}title")]
    assert titles == ["a", "b", "c"]
    assert figure._repr_svg_() == standalone_svg(figure)


def test_one_rendering_serves_page_and_file():
    page, alone = both_svgs(drawing(), name="f", alt="x")
    assert page == inline_svg(drawing(), name="f", alt="x")
    assert alone == standalone_svg(drawing())


@pytest.mark.parametrize("tips", [("a",), ("a", "b", "c", "d")])
def test_a_wrong_number_of_tips_is_refused(tips):
    with pytest.raises(ValueError, match="drew 3 marks"):
        inline_svg(drawing(tips), name="f", alt="")


def test_a_point_that_is_not_drawn_is_refused():
    figure = TippedFigure(figsize=(3, 2))
    (line,) = figure.subplots().plot([0.0, np.nan, 1.0], [0.0, 1.0, 1.0], "o")
    figure.explain(line, ["a", "b", "c"])
    with pytest.raises(ValueError, match="not finite"):
        standalone_svg(figure)


def test_ids_of_two_figures_do_not_meet_and_all_references_resolve():
    ids = []
    for name in ("one", "two"):
        svg = inline_svg(drawing(), name=name, alt="")
        own = re.findall(r'\bid="([^"]*)"', svg)
        assert len(own) == len(set(own))
        references = re.findall(r'href="#([^"]*)"', svg) + re.findall(r"url\(#([^)]*)\)", svg)
        assert references
        assert set(references) <= set(own)
        ids.append(set(own))
    assert not ids[0] & ids[1]


def test_the_same_figure_gives_the_same_bytes_without_a_date():
    def bytes_of(figure):
        return inline_svg(figure, name="f", alt="x"), standalone_svg(figure), png(figure)

    first = bytes_of(drawing())
    assert first == bytes_of(drawing())
    assert "date" not in first[1].lower()
    assert first[2].startswith(b"\x89PNG")


def test_hostile_text_is_text_and_what_xml_cannot_hold_is_replaced():
    figure = drawing((HOSTILE, "b", "c"), title=HOSTILE)
    shown = HOSTILE.replace("\x00", "\ufffd")
    svg = inline_svg(figure, name="f", alt=HOSTILE)
    assert "<script" not in svg
    root = ET.fromstring(svg)
    assert tip_attributes(svg)[0] == shown
    assert root.get("aria-label") == shown
    assert shown in "".join(root.itertext())
    assert "<script" not in standalone_svg(figure)


def test_page_colours_become_variables_and_others_stay():
    figure = TippedFigure(figsize=(3, 2), facecolor=RC["figure.facecolor"])
    figure.text(0.5, 0.5, "x", color=RC["text.color"])
    figure.text(0.5, 0.2, "y", color="#d1560b")
    svg = inline_svg(figure, name="f", alt="")
    assert "var(--ink)" in svg
    assert "var(--paper)" in svg
    assert "#d1560b" in svg
    assert not any(colour in svg for colour in THEME)
    assert RC["text.color"] in standalone_svg(figure)


def test_run_tips_say_which_run_and_what_was_measured(tmp_path):
    path = synthetic_results.write(
        tmp_path / "r.jsonl", arms=("grpo",), seeds=1, learning_rates=(1e-4,), checkpoints=1
    )
    results = load_results(path)
    text = run_tips(results, arm_styles(results))[0]
    for part in (
        *("GRPO", "learning rate 0.0001", "constant", "epochs 1", "seed 0", "step 100 (last)"),
        f"new-task accuracy {results['new/accuracy'][0]:.3f} ({results['gain'][0]:+.3f})",
        f"forgetting {100 * results['forgetting'][0]:.1f} points",
        f"KL(base‖policy) {results['new/kl_base_policy_nats'][0]:.3g} nats",
        results["run"][0],
    ):
        assert part in text


def test_a_prefix_changes_ids_and_references_and_nothing_else():
    odd = '<use id="a" href="#a"> clip-path="url(#a'
    figure = drawing(tips=(odd, "b", "c"), title=f"{odd} id=")
    named, other = (inline_svg(figure, name=name, alt=odd) for name in ("f", "two-f"))
    assert prefix_ids(named, "two-") == other
    assert tip_attributes(other)[0] == odd
    assert "#two-f-" in other
