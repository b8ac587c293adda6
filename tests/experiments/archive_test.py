"""The tables of the docs are those of the results that are kept, row by row."""

import functools
from pathlib import Path

import pytest

from configs.razor_null import get_config
from experiments.null import table
from rlrazor.analysis.frontier import matched, target_list
from rlrazor.analysis.gain import contrasts, quantities
from rlrazor.analysis.gain_sections import contrast_table, gain_table, reported
from rlrazor.analysis.law import isotonic_law, law_rows, pooled_r2
from rlrazor.analysis.predictors import predictor_table
from rlrazor.analysis.results import load_results, main_base
from rlrazor.analysis.style import arm_styles
from rlrazor.analysis.tables import number, predictor_rows, targets_table
from rlrazor.lines import KL

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "experiments" / "results"


def rows_of(page, head):
    """The rows below a head that begins so."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(head))
    rows = lines[start + 2 :]
    return rows[: next((place for place, row in enumerate(rows) if row[:1] != "|"), len(rows))]


@functools.cache
def null():
    files = {
        said: RESULTS / f"razor_null_{name}.jsonl.xz"
        for said, name in {
            "": "trained",
            **{f"anchor {c:g}": f"anchor-{c:g}" for c in get_config().anchors},
        }.items()
    }
    return files, RESULTS / "razor_null_directions.jsonl.xz"


def test_forgetting_at_equal_kl():
    files, directions = null()
    targets = get_config().targets
    found = table.rows({"": directions}, targets) + table.rows(files, targets)
    printed = rows_of("null_curve.md", "| policies |")
    made = table.markdown(found, targets).splitlines()
    assert len(printed) > 20
    assert [row for row in printed if row not in made] == []
    left_out = [row for row in made[2:] if row not in printed]
    assert all(row.count("not reached") == len(targets) for row in left_out)


def test_the_second_order():
    _, directions = null()
    made = table.ratios(table.second_order(load_results(directions))).splitlines()
    assert rows_of("null_curve.md", "| inputs |") == made[2:]


@functools.cache
def parity():
    results = load_results(RESULTS / "razor_parity_cpu.jsonl.xz")
    return main_base(results), arm_styles(results)


def written(table):
    return ["| " + " | ".join(row) + " |" for row in table.rows]


def test_forgetting_of_parity_at_the_same_accuracy():
    results, styles = parity()
    made = targets_table([matched(results, at) for at in target_list(results)], styles)
    assert rows_of("parity.md", "| Method | at 0.895 | at 0.918 |") == written(made)


def test_what_predicts_forgetting_of_parity():
    made = written(predictor_rows(predictor_table(parity()[0])))
    printed = rows_of("parity.md", "| Predictor | R² here")
    assert len(printed) > 10
    assert [row for row in printed if row not in made] == []


def test_the_law_of_parity():
    rows, _ = law_rows(parity()[0], KL)
    rate = rows["hyperparameters/learning_rate"]
    fits = {
        "all 16 methods, all rates": pooled_r2(rows),
        "the same, isotonic instead of a quadratic": isotonic_law(rows).r2,
        "all 16 methods, rates to 3e-4": pooled_r2(rows.select(rate < 4e-4)),
        "all 16 methods, rates to 1e-4": pooled_r2(rows.select(rate < 1.1e-4)),
        "the paper's five methods, all rates": pooled_r2(
            rows.of_arms(["sft1", "sft2", "oracle", "grpo", "grpo_kl"])
        ),
    }
    made = [f"| {name} | {number(r2)} |" for name, r2 in fits.items()]
    assert rows_of("parity.md", "| Fit | R² [95 %] |") == made


def test_methods_at_the_same_gain():
    results = load_results(RESULTS / "gp_frontier_small.jsonl.xz")
    styles = arm_styles(results)
    for table_of, head in (
        (gain_table(reported(results), quantities(results), styles), "| Method | Gain | Rate |"),
        (contrast_table(contrasts(results), styles), "| Method | Gain | Quantity |"),
    ):
        assert rows_of("frontier.md", head) == written(table_of)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.xz")), ids=lambda path: path.name)
def test_every_file_is_named_in_the_list_and_is_small(path):
    told = (RESULTS / "README.md").read_text()
    assert path.name in told or f"{path.name.split('_')[0]}_{path.name.split('_')[1]}_*" in told
    assert path.stat().st_size < 2_000_000
    assert len(load_results(path)) > 0
