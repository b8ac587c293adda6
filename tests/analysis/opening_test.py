"""What the report opens with, and what it says where something was not measured."""

import html
import re

import numpy as np
import pytest

from rlrazor.analysis import opening, sections
from rlrazor.analysis.figures import LIMIT, NARROW, WIDE
from rlrazor.analysis.hover import standalone_svg
from rlrazor.analysis.report import make_page
from rlrazor.analysis.results import Results, load_results, main_variant
from rlrazor.analysis.shift import shifts
from rlrazor.analysis.style import arm_styles
from rlrazor.analysis.verdicts import verdicts
from tests.oracles import schema2, synthetic_results, synthetic_shift

METHODS = ("sft", "self_sft", "grpo")


def shifted(path, **options):
    lines = synthetic_shift.lines(methods=METHODS, extras=(), checkpoints=3)
    return load_results(schema2.write(path, schema2.rewritten(lines, **options)))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return shifted(tmp_path_factory.mktemp("opening") / "r.jsonl", shifts=("rule", "visual"))


@pytest.fixture
def sketched(monkeypatch):
    """Figures are made but not rendered, which is what takes the time."""

    def svg(figure, *, name, alt):
        tips = "|".join(tip for group in figure.tips.values() for tip in group)
        return f'<svg id="{name}" aria-label="{html.escape(alt)}" data-tip="{html.escape(tips)}"/>'

    monkeypatch.setattr(sections, "inline_svg", svg)
    monkeypatch.setattr(sections, "both_svgs", lambda *a, **k: (svg(*a, **k), svg(*a, **k)))


def drawn(results, width=WIDE):
    return opening.opening_figure(
        results, arm_styles(results), resamples=9, width=width, limit=LIMIT
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_both_axes_have_a_mark_an_arm_and_shift(study, width):
    figure = drawn(study, width)
    assert standalone_svg(figure).count("<title>") == 2 * len(METHODS)
    assert figure.get_size_inches()[0] == width
    marks = {tuple(np.ravel(line.get_xydata())) for line in figure.axes[0].lines if line.get_gid()}
    wanted = {
        (100 * e.forgetting.estimate, 100 * e.change["shift/rule"].estimate)
        for e in shifts(main_variant(study), "shift/rule")
    }
    assert marks == wanted


def test_without_a_shift_it_is_the_law_and_without_prior_tasks_learning(study, tmp_path):
    law = load_results(synthetic_results.write(tmp_path / "r.jsonl", arms=("sft1", "grpo")))
    assert "forgetting" in drawn(law).axes[0].get_ylabel()
    assert "KL" in drawn(law).axes[0].get_xlabel()
    bare = Results({k: v for k, v in study.columns.items() if not k.startswith("prior/")})
    assert drawn(bare).axes[0].get_xlabel() == "gain, new task, points"
    none = Results({k: v for k, v in bare.columns.items() if not k.startswith("shift/")})
    assert drawn(none).axes[-1].get_xlabel() == "training step"
    nothing = Results({k: v for k, v in none.columns.items() if not k.startswith("new/")})
    with pytest.raises(ValueError, match="no run has both measurements"):
        drawn(nothing)


def test_three_sentences_with_their_numbers(study):
    found = verdicts(study, resamples=20)
    said = opening.sentences(study, found)
    assert [s.question for s in said] == [
        "Does RL generalize?", "Does it forget less?", "Does KL predict it?"
    ]  # fmt: skip
    by_id = {v.id: v for v in found}
    assert [s.word for s in said] == [
        by_id[key].word for key in ("rl_gains/rule", "rl_less", "kl_pooled")
    ]
    for sentence, key in zip(said, ("rl_gains/visual", "rl_less", "kl_pooled"), strict=True):
        unit = {} if key == "kl_pooled" else {"scale": 100, "digits": 1, "unit": " points"}
        assert by_id[key].ours.limits(**unit) in sentence.text
    assert "look that training never showed" in said[0].text
    assert re.search(r"those of R² hold the true value 90 % at 3 seeds", opening.brackets(found))


def test_shifts_that_disagree_are_undecided(tmp_path):
    lines = schema2.rewritten(
        synthetic_shift.lines(methods=METHODS, extras=(), checkpoints=3), shifts=("rule", "visual")
    )
    for line in lines:
        line["shift/visual/accuracy"] = max(0.0, line["shift/visual/accuracy"] - 0.1)
    results = load_results(schema2.write(tmp_path / "r.jsonl", lines))
    said = opening.sentences(results, verdicts(results, resamples=9))
    assert said[0].word == "undecided"
    assert "RL changes by -" in said[0].text


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    ("options", "said", "gone"),
    [
        ({"shifts": ()}, "No shift was tested", ("shift", "axes")),
        ({"drop": ("prior/",)}, "Prior tasks were not tested", ("law", "frontier", "flips")),
        ({"drop": ("prior/",), "shifts": ()}, "What was learnt?", ("law", "trajectory")),
        ({"drop": ("new/",)}, "The new task was not tested", ("law", "frontier")),
        ({"drop": ("new/", "prior/"), "shifts": ()}, "The new task was not tested", ("law",)),
        ({"drop": ("new/kl",)}, "KL(base‖policy) on the new task was not measured", ("law",)),
        ({"drop": ("flops",)}, "no field 'flops'", None),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_there(tmp_path, options, said, gone):
    if gone is None:
        with pytest.raises(ValueError, match=said):
            shifted(tmp_path / "r.jsonl", **options)
        return
    page, pictures = make_page(shifted(tmp_path / "r.jsonl", **options), resamples=9)
    assert said in page
    assert not any(f'id="{key}"' in page for key in gone)
    assert "no column" not in page
    assert 'id="methods"' in page
    assert not re.search(r"\bnan\b", re.sub(r"<[^>]*>", " ", page))
    assert bool(pictures) == (options.get("drop") != ("new/", "prior/"))


@pytest.mark.usefixtures("sketched")
def test_every_shift_has_its_chapters(study):
    page, pictures = make_page(study, resamples=9)
    ids = re.findall(r'<section id="([^"]*)"', page)
    for key in ("shift_rule", "shift_visual", "axes_rule", "axes_visual"):
        assert key in ids
    assert "tries" in ids
    names = [picture.name for picture in pictures]
    assert len(set(names)) == len(names)
    assert "Under the other look" in " ".join(
        axes.get_title(loc="left") for p in pictures for axes in p.figure.axes
    )


@pytest.mark.usefixtures("sketched")
def test_a_study_of_ones_own_has_no_number_of_a_paper(tmp_path):
    lines = schema2.rewritten(
        synthetic_results.lines(arms=("sft1", "grpo"), seeds=2), study="my study"
    )
    page, _ = make_page(load_results(schema2.write(tmp_path / "r.jsonl", lines)), resamples=9)
    assert "<dt>Paper</dt>" not in page
    assert "Table 1" not in page
    assert "the paper" not in re.search(r'id="figure-predictors".*?</figure>', page, re.S)[0]
