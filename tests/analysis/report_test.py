"""The report as a reader's browser sees it."""

import dataclasses
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rlrazor.analysis import report, sections
from rlrazor.analysis.report import SHIFT_TITLE, Study, make_page, make_report, write_report
from rlrazor.analysis.results import load_results
from rlrazor.analysis.trajectory import COSINE, KL_CHANGE, load_trajectory
from rlrazor.analysis.verdicts import verdicts
from rlrazor.lines import MEASURED
from tests.oracles import synthetic_results, synthetic_shift

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}$x$"
ODD = "\x00\ud800_& \u4e2d"
FIGURES = (
    "opening",
    "law",
    "law_by_method",
    "predictors",
    "frontier",
    "matched",
    "flips",
    "flips_by_method",
)
SMALL = {"seeds": 2, "learning_rates": (1e-5, 1e-3), "checkpoints": 3}


class Page(HTMLParser):
    """Tags with attributes, text, and text by section."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.raw = [], "", html
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def build(tmp_path, *, arms=("sft1", "grpo", "grpo_std"), keep=None, change=None, **options):
    rows = synthetic_results.lines(arms=arms, **(SMALL | options))
    for row in rows:
        if change:
            change(row)
        for name in [] if keep is None else [n for n in row if n not in keep]:
            del row[name]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_results(path)


def steps(path, arm="grpo", run="r"):
    rng = np.random.default_rng(0)
    rows = [
        {"run": run, "arm": arm, "seed": 0, "step": i}
        | {COSINE: float(c), KL_CHANGE: float(0.1 * c)}
        for i, c in enumerate(rng.uniform(-1, 1, 12))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_trajectory(path)


def page_of(results, **options):
    return Page(make_page(results, resamples=20, **options)[0])


@pytest.fixture
def sketched(monkeypatch):
    """Figures are made but not rendered, which is what takes the time."""

    def svg(figure, *, name, alt):
        tips = "|".join(tip for group in figure.tips.values() for tip in group)
        return f'<svg id="{name}" data-tip="{html.escape(tips)}"></svg>'

    monkeypatch.setattr(sections, "inline_svg", svg)
    monkeypatch.setattr(sections, "both_svgs", lambda *a, **k: (svg(*a, **k), svg(*a, **k)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = {
        "command": "python experiments/x.py --workdir=w",
        "commit": "0123abc",
        "config": {"loss": {"beta": 0.25}},
        "versions": {"jax": "9.9"},
    }
    trajectory = steps(folder / "t.jsonl")
    return make_report(build(folder), trajectory=trajectory, run=run, resamples=20)


@pytest.fixture(scope="module")
def page(files):
    return Page(files["report.html"].decode())


def test_one_file_that_fetches_nothing(page):
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "img", "image")
        assert "src" not in attrs
        for name in ("href", "xlink:href"):
            target = attrs.get(name) or "#"
            assert target.startswith("#") or (tag == "a" and target.startswith("figures/"))
    assert "@import" not in page.raw
    assert "url(http" not in page.raw
    assert page.raw.count("<script") == 1


def test_references_in_the_page_resolve_and_ids_are_unique(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs.get("href", "") for _, attrs in page.tags}
    assert {t[1:] for t in targets if t.startswith("#")} <= set(ids)


def test_every_figure_is_there_twice_with_a_description_and_its_files(files, page):
    names = [attrs["id"].removeprefix("figure-") for attrs in page.all("figure")]
    assert names == [*FIGURES, "trajectory"]
    drawings = page.all("svg")
    assert len(drawings) == 2 * len(names)
    assert all(d["role"] == "img" and d["aria-label"] and "viewbox" in d for d in drawings)
    assert all("width" not in d for d in drawings)  # the page scales them
    assert set(files) == {
        "report.html",
        *(f"figures/{name}.{kind}" for name in names for kind in ("svg", "png")),
    }


def test_the_answer_comes_first_with_interval_runs_and_seeds(page):
    assert page.raw.index('id="answer"') < page.raw.index('id="law"')
    answer = page.raw[page.raw.index('id="answer"') : page.raw.index('id="law"')]
    assert answer.count("<li>") == 8
    assert answer.count("<dt>Paper</dt>") == 8
    assert answer.count("2 seeds") >= 8
    assert "95 % interval" in answer


def test_provenance_ends_the_page(page):
    tail = page.raw[page.raw.index('id="provenance"') :]
    for text in ("python experiments/x.py", "0123abc", "beta", "0.25", "9.9"):
        assert text in tail
    assert "No run.json" not in page.text


def test_readable_on_a_phone_in_the_dark_and_on_paper(page):
    assert any(m.get("name") == "viewport" for m in page.all("meta"))
    for rule in ("prefers-color-scheme:dark", "max-width:40rem", "@media print", "break-inside"):
        assert rule in page.raw


def test_names_from_results_are_never_markup(tmp_path):
    def rename(row):
        row["run"] = HOSTILE + row["run"]
        if row["arm"] == "grpo":
            row |= {"arm": HOSTILE + ODD, "family": "reward"}
        row["hyperparameters"]["advantage_norm"] = HOSTILE
        row["hyperparameters"]["schedule"] = ODD

    results = build(tmp_path, change=rename, seeds=1)
    page = page_of(
        results,
        run={HOSTILE: HOSTILE, "config": {HOSTILE: [HOSTILE]}},
        trajectory=steps(tmp_path / "t.jsonl", arm=HOSTILE + ODD, run=HOSTILE),
        title=HOSTILE,
    )
    page.raw.encode()  # JSON can hold a lone surrogate, a file cannot
    assert page.raw.count("<script") == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "{{7*7}}" in page.text
    assert any(HOSTILE[:60] in (attrs.get("data-tip") or "") for _, attrs in page.tags)


@pytest.mark.usefixtures("sketched")
def test_required_columns_alone_are_enough(tmp_path):
    page = page_of(build(tmp_path, keep={"run", "arm", "seed", "step", "final", *MEASURED}))
    assert "hyperparameters not given" in page.raw
    assert "not measured" in page.text
    assert "No trajectory.jsonl" in page.text
    assert "No run.json" in page.text
    assert {f["id"] for f in page.all("figure")} >= {"figure-law", "figure-frontier"}


@pytest.mark.usefixtures("sketched")
def test_one_seed_says_so_and_claims_no_interval(tmp_path):
    page = page_of(build(tmp_path, seeds=1))
    assert "1 seed: no interval" in page.text
    assert "(no interval)" in page.text
    assert "% interval" not in page.text.split("How to read the numbers")[0]
    answer = page.raw[page.raw.index('id="answer"') : page.raw.index('id="law"')]
    assert answer.count('class="word undecided"') == 8


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("arm", ["grpo", "sft1", "somebody's method"])
def test_one_arm_still_makes_a_page(tmp_path, arm):
    page = page_of(
        build(tmp_path, arms=("sft1",), change=lambda row: row.update(arm=arm, family="outside"))
    )
    assert "Not available" in page.text or "Nothing to predict from" in page.text
    assert "figure-law" in {f["id"] for f in page.all("figure")}


@pytest.mark.usefixtures("sketched")
def test_nothing_finite_nothing_drawn_but_a_page_that_says_why(tmp_path):
    page = page_of(
        build(tmp_path, change=lambda row: row.update({"new/kl_base_policy_nats": None}))
    )
    assert "figure-law" not in {f["id"] for f in page.all("figure")}
    assert "KL(base‖policy) on the new task was not measured" in page.text
    assert "figure-frontier" in {f["id"] for f in page.all("figure")}


@pytest.mark.usefixtures("sketched")
def test_diverged_lines_are_counted(tmp_path):
    def diverge(row):
        if row["run"].startswith("grpo-s0-b5-lr0.001-constant"):
            row["new/kl_base_policy_nats"] = float("nan")
            row["new/accuracy"] = float("nan")

    page = page_of(build(tmp_path, change=diverge))
    assert "3 non-finite lines left out" in page.text


def test_written_whole_and_over_an_older_report(tmp_path, monkeypatch):
    files = {"report.html": b"new", "figures/law.png": b"png"}
    monkeypatch.setattr(report, "make_report", lambda results, **options: files)
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out / "report.html").write_text("old")
    path = write_report(None, out)
    assert path == out / "report.html"
    assert path.read_bytes() == b"new"
    assert (out / "figures" / "law.png").read_bytes() == b"png"
    assert not list(out.rglob("*.tmp"))


# Several studies in one page.


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The second study is small: what differs between them is their names."""
    folder = tmp_path_factory.mktemp("both")
    first = build(folder, seeds=1, checkpoints=2)
    trajectory = steps(folder / "t.jsonl")
    return {
        "digits": Study(first, trajectory, {"command": "python one.py", "config": {"beta": 0.25}}),
        "Zweite Studie": Study(build(folder, arms=("sft1", "grpo"), seeds=1, checkpoints=2)),
    }


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    path = tmp_path_factory.mktemp("shifted") / "results.jsonl"
    return load_results(synthetic_shift.write(path, methods=("sft", "grpo"), checkpoints=2))


def ids_of(page):
    return [attrs["id"] for _, attrs in page.tags if "id" in attrs]


def test_nothing_of_two_studies_collides(both):
    files = make_report(both, resamples=9)
    page = Page(files["report.html"].decode())
    test_references_in_the_page_resolve_and_ids_are_unique(page)
    test_one_file_that_fetches_nothing(page)
    names = [attrs["id"].removeprefix("figure-") for attrs in page.all("figure")]
    assert names[: len(FIGURES) + 1] == [f"digits-{name}" for name in (*FIGURES, "trajectory")]
    assert {name.split("-")[0] for name in names} == {"digits", "zweite_studie"}
    linked = {a["href"] for a in page.all("a") if a["href"].startswith("figures/")}
    assert linked == set(files) - {"report.html"}
    assert len(linked) == 2 * len(names)


@pytest.mark.usefixtures("sketched")
def test_one_list_of_verdicts_then_study_by_study(both):
    page = page_of(both)
    ids = ids_of(page)
    assert [i for i in ids if i in ("answer", "digits-study", "zweite_studie-study")] == [
        "answer", "digits-study", "zweite_studie-study"
    ]  # fmt: skip
    answer, first, second = re.split(r'<section class="study"', page.raw)
    entries = answer.split("<li>")[1:]
    assert ["#digits-study" in entry for entry in entries] == [True] * 8 + [False] * 8
    assert ["#zweite_studie-study" in entry for entry in entries] == [False] * 8 + [True] * 8
    assert "2 studies. digits: 3 methods, 12 runs, 1 seed" in page.text
    for text, name in ((first, "digits"), (second, "Zweite Studie")):
        assert text.count("<h2>") == 1
        assert f"<h2>{name}</h2>" in text
        assert [*re.findall("<h3>(.*?)</h3>", text)][-1] == "Provenance"
    assert "python one.py" in first
    assert "python one.py" not in second
    assert "No run.json" in second
    assert "No run.json" not in first


@pytest.mark.usefixtures("sketched")
def test_each_study_has_the_chapters_that_it_has_alone(both, shifted):
    studies = {"digits": both["digits"], "points": Study(shifted)}
    page = page_of(studies)
    assert page.raw.count(SHIFT_TITLE) == 2  # of the page and of its window
    for name, study in studies.items():
        alone = page_of(study.results, trajectory=study.trajectory, run=study.run)
        mine = [i for i in ids_of(page) if i.removeprefix("figure-").startswith(f"{name}-")]
        mine = [i.replace(f"{name}-", "", 1) for i in mine]
        assert mine.count("figure-opening") == 1  # that of the shifted study opens the page
        own = [i for i in mine if "opening" not in i]
        rest = [i for i in ids_of(alone) if i not in ("answer", "tip") and "opening" not in i]
        assert own == ["study", *rest]
    assert "mine" in Page(make_page(studies, resamples=9, title="mine")[0]).text
    assert SHIFT_TITLE not in page_of({"a": both["digits"], "b": both["digits"]}).raw


@pytest.mark.usefixtures("sketched")
def test_one_study_is_the_same_page_with_a_name_or_without(both):
    study = both["digits"]
    found = verdicts(study.results, resamples=20)
    named, _ = make_page({"digits": dataclasses.replace(study, found=found)}, resamples=20)
    options = {"trajectory": study.trajectory, "run": study.run}
    assert make_page(study.results, found=found, resamples=20, **options)[0] == named
    assert make_page(study.results, resamples=20, **options)[0] == named
    assert 'class="study"' not in named
    few, _ = make_page({"digits": dataclasses.replace(study, found=found[:1])}, resamples=20)
    assert few.count("<dt>Paper</dt>") == 1


@pytest.mark.usefixtures("sketched")
def test_any_names_make_different_ids_and_files(both):
    names = ["A b", "a-b", "a_b", "a b 2", "数字", "", "figure", "study", "law", HOSTILE + ODD]
    names += ["long" * 50, "long" * 50 + "er"]
    page, pictures = make_page(dict.fromkeys(names, both["Zweite Studie"]), resamples=9)
    page.encode()
    assert page.count("<script") == 1
    test_references_in_the_page_resolve_and_ids_are_unique(Page(page))
    drawn = [picture.name for picture in pictures]
    assert len(set(drawn)) == len(drawn)
    assert all(re.fullmatch("[a-z0-9_]{1,50}-[a-z_]+", name) for name in drawn)


@pytest.mark.usefixtures("sketched")
def test_a_study_without_an_answer_says_so_by_name(both, monkeypatch):
    def refuse(results, **options):
        if results is both["digits"].results:
            raise ValueError("it is Monday")
        return []

    monkeypatch.setattr(report, "verdicts", refuse)
    assert "digits: Not available: it is Monday." in page_of(both).text


def test_what_stands_beside_several_studies_belongs_in_each(both):
    with pytest.raises(ValueError, match="belong in each Study"):
        make_page(both, run={})
    with pytest.raises(ValueError, match="give at least one"):
        make_page({})
