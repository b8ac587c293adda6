"""The report of a study of the other rule, as a reader's browser sees it."""

import html

import numpy as np
import pytest

from rlrazor.analysis import sections
from rlrazor.analysis.report import SHIFT_TITLE, make_page
from rlrazor.analysis.results import ALWAYS, Results, load_results, main_variant
from rlrazor.analysis.sections import Absent, Picture
from rlrazor.analysis.shift_sections import shift_sections
from rlrazor.analysis.style import arm_styles
from rlrazor.analysis.tables import Table
from tests.oracles import synthetic_shift

CHAPTERS = ["shift", "axes", "turns", "prompts", "tries", "flops", "recognition", "verifier"]
METHODS = ("sft", "self_sft", "grpo", "grpo_std")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("sections") / "results.jsonl"
    return load_results(synthetic_shift.write(path, methods=METHODS))


@pytest.fixture(autouse=True)
def _sketched(monkeypatch):
    """Figures are made but not rendered, which is what takes the time."""

    def svg(figure, *, name, alt):
        del alt
        tips = "|".join(tip for group in figure.tips.values() for tip in group)
        return f'<svg id="{name}" data-tip="{html.escape(tips)}"></svg>'

    monkeypatch.setattr(sections, "inline_svg", svg)
    monkeypatch.setattr(sections, "both_svgs", lambda *a, **k: (svg(*a, **k), svg(*a, **k)))


def chapters_of(results):
    return shift_sections(results, arm_styles(results), 20)


def without(results, *parts):
    return Results(
        {k: v for k, v in results.columns.items() if k in ALWAYS or not any(p in k for p in parts)}
    )


def test_every_chapter_has_its_pictures_and_tables(study):
    chapters = chapters_of(study)
    assert [c.key for c in chapters] == CHAPTERS
    for chapter in chapters:
        assert not any(isinstance(part, Absent) for part in chapter.parts), chapter.key
        assert any(isinstance(part, Picture) for part in chapter.parts), chapter.key
        for part in chapter.parts:
            if isinstance(part, Table):
                assert {len(row) for row in part.rows} == {len(part.head)}


def test_both_verifiers_are_tabled_for_every_arm(study):
    (verifier,) = (c for c in chapters_of(study) if c.key == "verifier")
    tables = [part for part in verifier.parts if isinstance(part, Table)]
    for rule in ("rule of training", "other rule"):
        (table,) = (t for t in tables if t.caption.startswith(f"Both verifiers under the {rule}"))
        assert len(table.rows) == len(study.arms) > len(METHODS)


def test_the_page_asks_about_generalization_first_and_keeps_the_other_chapters(study):
    page, _ = make_page(study, resamples=20)
    assert SHIFT_TITLE in page
    order = [page.index(f'id="{key}"') for key in ("answer", *CHAPTERS, "law", "frontier")]
    assert order == sorted(order)
    assert 'id="predictors"' in page
    assert 'id="trajectory"' not in page  # nothing of it was measured
    assert "Claims left out: oracle less (needs the oracle)" in page
    assert "mine" in make_page(study, resamples=20, title="mine")[0][:4000]


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        (("pass_at",), {"tries"}),
        (("flops",), {"flops"}),
        (("cards_read",), {"recognition"}),
    ],
)
def test_a_chapter_without_its_columns_is_left_out(study, missing, gone):
    chapters = {c.key for c in chapters_of(without(study, *missing))}
    assert set(CHAPTERS) - chapters == gone


def test_chapters_on_variants_need_variants(study):
    plain = without(main_variant(study), "released_accuracy")
    assert set(CHAPTERS) - {c.key for c in chapters_of(plain)} == {"verifier", "turns"}


def test_what_is_left_of_a_chapter_says_why(study):
    chapters = {c.key: c for c in chapters_of(without(study, "fake"))}
    reasons = [part.reason for part in chapters["prompts"].parts if isinstance(part, Absent)]
    assert any("judged by" in reason for reason in reasons)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_required_columns_and_the_other_rule_alone_make_a_page(study, seeds):
    names = {*ALWAYS, "shift/rule/accuracy", "shift/rule/base_accuracy"}
    bare = Results({k: v for k, v in study.columns.items() if k in names})
    page, _ = make_page(bare.select(np.isin(bare["seed"], seeds)), resamples=20)
    assert 'id="shift"' in page
    assert 'id="tries"' not in page


def test_nothing_finite_under_the_other_rule_is_a_page_that_says_so(study):
    dead = Results({**study.columns, "shift/rule/accuracy": np.full(len(study), np.nan)})
    page, _ = make_page(dead, resamples=20)
    assert "No number" in page
    assert 'id="law"' in page
    no_base = Results({k: v for k, v in study.columns.items() if k != "shift/rule/base_accuracy"})
    assert 'id="law"' in make_page(no_base, resamples=20)[0]


def test_names_are_never_markup(study):
    odd = "</script><script>alert(1)</script>"
    arm = np.array([odd if a == "self_sft" else a for a in study["arm"]])
    page, _ = make_page(Results({**study.columns, "arm": arm}), resamples=20)
    assert page.count("<script") == 1


def test_a_study_of_one_variant_only_is_still_a_page(study):
    variant = study.select(study["arm"] == "grpo_diverse")
    page, _ = make_page(variant, resamples=20)
    assert 'id="methods"' in page
