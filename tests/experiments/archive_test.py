"""The tables of the docs are those of the results that are kept, row by row."""

import functools
from pathlib import Path

import pytest

from configs.razor_null import get_config
from experiments.null import table
from rlrazor.analysis.gain import contrasts, quantities
from rlrazor.analysis.gain_sections import contrast_table, gain_table, reported
from rlrazor.analysis.results import load_results
from rlrazor.analysis.style import arm_styles

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


def test_methods_at_the_same_gain():
    results = load_results(RESULTS / "gp_frontier_small.jsonl.xz")
    styles = arm_styles(results)
    for table_of, head in (
        (gain_table(reported(results), quantities(results), styles), "| Method | Gain | Rate |"),
        (contrast_table(contrasts(results), styles), "| Method | Gain | Quantity |"),
    ):
        made = ["| " + " | ".join(row) + " |" for row in table_of.rows]
        assert rows_of("frontier.md", head) == made


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.xz")), ids=lambda path: path.name)
def test_every_file_is_named_in_the_list_and_is_small(path):
    told = (RESULTS / "README.md").read_text()
    assert path.name in told or f"{path.name.split('_')[0]}_{path.name.split('_')[1]}_*" in told
    assert path.stat().st_size < 1_000_000
    assert len(load_results(path)) > 0
