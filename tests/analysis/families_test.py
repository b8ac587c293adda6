"""Analysis compares families and roles, never names."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

import rlrazor.analysis
from rlrazor.analysis import papers
from rlrazor.analysis.legacy import METHODS
from rlrazor.analysis.results import load_results
from rlrazor.analysis.style import arm_styles
from rlrazor.analysis.verdicts import left_out, verdicts
from tests.oracles import schema2, synthetic_results, synthetic_shift

MINE = {"grpo": "my_rl", "sft": "my_sft", "sft1": "my_sft"}
LORA = {"grpo": "grpo_lora", "sft": "sft_lora", "sft1": "sft_lora"}


def laws(**options):
    return synthetic_results.lines(
        arms=("sft1", "grpo"), seeds=3, learning_rates=(1e-4, 1e-3), **options
    )


def shifted(**options):
    return synthetic_shift.lines(methods=("sft", "grpo"), **options)


def judged(path, lines):
    found = verdicts(load_results(schema2.write(path, lines)), resamples=30)
    return [(v.id, v.word, *_numbers(v)) for v in found]


def _numbers(verdict):
    if verdict.ours is None:
        return ()
    return verdict.n_runs, verdict.n_seeds, *dataclasses.astuple(verdict.ours)


@pytest.mark.parametrize("lines", [laws, shifted])
@pytest.mark.parametrize("names", [MINE, LORA])
def test_other_names_get_every_verdict_with_the_same_numbers(tmp_path, lines, names):
    ours = judged(tmp_path / "ours.jsonl", schema2.rewritten(lines()))
    theirs = judged(tmp_path / "theirs.jsonl", schema2.rewritten(lines(), names=names))
    assert len(ours) == (8 if lines is laws else 15)
    for a, b in zip(ours, theirs, strict=True):
        assert a[:2] == b[:2]
        np.testing.assert_allclose(a[2:-1], b[2:-1], rtol=1e-9)


@pytest.mark.parametrize("lines", [laws, shifted])
def test_an_older_file_gets_what_it_gets_rewritten(tmp_path, lines):
    old = judged(tmp_path / "old.jsonl", lines())
    assert old == judged(tmp_path / "new.jsonl", schema2.rewritten(lines()))


def test_the_controlled_claims_follow_roles_not_names(tmp_path):
    lines = synthetic_results.lines(
        arms=("sft1", "simpo", "grpo", "grpo_std", "reinforce", "oracle", "grpo_kl"),
        seeds=3,
        learning_rates=(1e-4, 1e-3),
    )
    names = {name: f"x{i}" for i, name in enumerate(METHODS)}
    ours = judged(tmp_path / "ours.jsonl", schema2.rewritten(lines))
    theirs = judged(tmp_path / "x.jsonl", schema2.rewritten(lines, names=names, roles=True))
    assert [a[:2] for a in ours] == [b[:2] for b in theirs]
    assert all(len(b) > 2 for b in theirs)  # each has its number
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a[2:-1], b[2:-1], rtol=1e-9)


def test_no_name_of_an_arm_stands_in_the_code_of_analysis():
    folder = Path(rlrazor.analysis.__file__).parent
    for path in sorted(folder.glob("*.py")):
        if path.name == "legacy.py":
            continue
        tree = ast.parse(path.read_text())
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        assert not {t for t in texts if isinstance(t, str)} & set(METHODS), path.name


def test_an_unknown_arm_without_a_family_says_what_to_add(tmp_path):
    lines = [line | {"arm": "mine"} for line in laws()]
    path = schema2.write(tmp_path / "r.jsonl", lines)
    with pytest.raises(ValueError, match=r"r.jsonl:1: arm 'mine' has no family; add 'family'"):
        load_results(path)
    with pytest.raises(ValueError, match=r"--family=mine:reward .*'near' \(imitates"):
        load_results(path)
    given = load_results(path, families={"mine": "outside"})
    assert given.families == {"mine": "outside"}
    assert given.sft == ("mine",)
    bad = schema2.write(tmp_path / "bad.jsonl", [line | {"family": "rl"} for line in laws()])
    with pytest.raises(ValueError, match="'family' must be 'reward'"):
        load_results(bad)


def test_a_line_may_say_what_the_table_would_say_otherwise(tmp_path):
    lines = [line | {"family": "near", "label": "Mine"} for line in laws() if line["arm"] == "grpo"]
    results = load_results(schema2.write(tmp_path / "r.jsonl", lines))
    assert results.families == {"grpo": "near"}
    assert results.rl == ()
    assert arm_styles(results)["grpo"].name == "Mine"


def test_what_papers_report_follows_the_study(tmp_path):
    def told(study):
        lines = schema2.rewritten(shifted(), study=study)
        results = load_results(schema2.write(tmp_path / "r.jsonl", lines))
        return {v.key: v.paper for v in verdicts(results, resamples=5)}

    assert told("sft_memorizes_gp_l")["rl_gains"].startswith("11.5 % to 15.0 % (GeneralPoints in")
    assert told("sft_memorizes_virl_l")["sft_loses"].startswith("80.8 % to 1.3 % (V-IRL in text")
    assert set(told("mine").values()) == {""}


def test_papers_tell_shifts_apart():
    def told(shift):
        return papers.reported("sft_memorizes_gp_vl", "rl_beats_sft", shift)

    assert told("rule").startswith("14.2 % against 5.6 %")
    assert told("visual").startswith("41.2 % against 13.7 %")
    assert told("weather") == ""


def test_several_shifts_are_judged_one_by_one(tmp_path):
    once = load_results(schema2.write(tmp_path / "a.jsonl", schema2.rewritten(shifted())))
    lines = schema2.rewritten(shifted(), shifts=("rule", "visual", "red cards"))
    for line in lines:
        line["shift/visual/accuracy"] = max(0.0, line["shift/visual/accuracy"] - 0.1)
    results = load_results(schema2.write(tmp_path / "b.jsonl", lines))
    assert results.shifts == ("shift/rule", "shift/visual", "shift/red cards")
    found = verdicts(results, resamples=20)
    assert len({v.id for v in found}) == len(found)
    single = {v.key: v for v in verdicts(once, resamples=20)}
    for shift in ("rule", "red cards"):
        for v in found:
            if v.shift == shift:
                assert v.ours == single[v.key].ours
    by_id = {v.id: v for v in found}
    assert by_id["rl_gains/visual"].ours.high < 0 < by_id["rl_gains/rule"].ours.low
    assert "look that training never showed" in by_id["rl_gains/visual"].claim
    assert "the shift “red cards”" in by_id["rl_gains/red cards"].claim
    assert [v.key for v in found].count("rl_sharpens") == 1


@pytest.mark.parametrize(
    ("drop", "gone"),
    [
        (("ood/",), {"rl_gains/rule", "kl_shift/rule", "rl_forgets_less_at_end"}),
        (("prior/",), {"rl_less", "kl_pooled", "rl_forgets_less_at_end"}),
        (("new/",), {"rl_less", "kl_pooled", "kl_shift/rule", "rl_sharpens"}),
        (("prior/", "new/", "ood/"), {"rl_less", "kl_pooled", "rl_gains/rule"}),
    ],
)
def test_what_was_not_measured_is_left_out_and_named(tmp_path, drop, gone):
    shifts = () if "ood/" in drop else ("rule",)
    lines = schema2.rewritten(shifted(), shifts=shifts, drop=drop)
    results = load_results(schema2.write(tmp_path / "r.jsonl", lines))
    found = {v.id for v in verdicts(results, resamples=20)}
    assert not found & gone
    named = set(left_out(results))
    assert {g for g in gone if not g.endswith("/rule") and g != "rl_forgets_less_at_end"} <= (
        named | (set() if shifts else {"rl_sharpens"})
    )


def test_matched_compute_includes_the_teacher(tmp_path):
    lines = schema2.rewritten(shifted())
    for line in lines:
        line["flops_teacher"] = 2 * line["flops"] if line["family"] == "outside" else 0.0
    results = load_results(schema2.write(tmp_path / "r.jsonl", lines))
    np.testing.assert_allclose(results["flops_total"], results["flops"] + results["flops_teacher"])
    found = {v.key: v for v in verdicts(results, resamples=20)}
    for key in ("rl_beats_sft", "rl_forgets_less_at_end"):
        assert found[key].word == "undecided"
        assert "teacher and start included" in found[key].sentence
        assert "not matched compute" in found[key].sentence
