import numpy as np
import pytest

from rlrazor.analysis import tables
from rlrazor.analysis.claims import HOLDS, UNDECIDED, Verdict
from rlrazor.analysis.flips import flip_map
from rlrazor.analysis.frontier import compare_arms, matched
from rlrazor.analysis.law import isotonic_law, left_out, quadratic_law, within_arms
from rlrazor.analysis.predictors import predictor_table
from rlrazor.analysis.results import Results, load_results
from rlrazor.analysis.statistics import Interval
from rlrazor.analysis.style import arm_styles
from rlrazor.analysis.verdicts import verdicts
from rlrazor.lines import KL
from tests.oracles import synthetic_results

ARMS = ("sft1", "grpo", "grpo_std", "oracle")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "r.jsonl"
    return load_results(
        synthetic_results.write(path, arms=ARMS, seeds=2, learning_rates=(1e-5, 1e-3))
    )


def verdict(**changes):
    fields = {
        "key": "k",
        "claim": "A claim.",
        "paper": "p",
        "ours": Interval(0.1234, 0.1, 0.2, 5),
        "quantity": "pooled R2, against 0.8",
        "n_runs": 12345,
        "n_seeds": 5,
        "word": HOLDS,
        "sentence": "s",
    }
    return Verdict(**(fields | changes))


def test_every_table_is_rectangular_and_says_what_it_rests_on(results):
    entries, styles = matched(results, 0.9), arm_styles(results)
    built = [
        tables.law_table([quadratic_law(results, resamples=9), isotonic_law(results, resamples=9)]),
        tables.within_table(*within_arms(results, resamples=9), styles),
        tables.left_out_table(left_out(results, resamples=9), styles, "Predicting"),
        tables.predictor_rows(predictor_table(results, resamples=9)),
        tables.matched_table(entries, compare_arms(entries, "sft1"), styles),
        tables.targets_table([entries, matched(results, 0.95)], styles),
        tables.flip_table(flip_map(results, ARMS[1:3], ARMS[:1]), styles, "Flips"),
        tables.data_table(results, styles),
    ]
    for table in built:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.head)}
        assert "Seeds" in table.head or "seeds" in table.caption
        assert "Runs" in " ".join(table.head) or any(
            word in " ".join((*table.head, table.caption)) for word in ("runs", "Checkpoints")
        )


def test_a_predictor_without_a_number_says_why(results):
    table = tables.predictor_rows(predictor_table(results, resamples=9))
    rank = next(row for row in table.rows if row[0] == "weight change, rank")
    assert rank[1] == "n/a"
    assert "weight change, rank: the same in every run (256)" in table.caption
    first = table.rows[0]
    assert first[0] == "KL(base‖policy), new task"
    assert first[2:4] == ("0.96", "0.94")


def test_matched_rows_carry_difference_adjusted_p_and_word(results):
    entries = matched(results, 0.9)
    found = {c.arm: c for c in compare_arms(entries, "sft1")}
    table = tables.matched_table(entries, list(found.values()), arm_styles(results))
    rows = {row[0]: row for row in table.rows}
    assert rows["SFT-1"][4] == "the reference"
    assert rows["GRPO"][2] == found["grpo"].comparison.difference.limits(scale=100, digits=1)
    assert rows["GRPO"][4] == found["grpo"].word


def test_data_counts_lines_that_diverged_or_never_finished(results):
    kl = results[KL].copy()
    kl[:3] = np.nan
    final = results["final"].copy()
    final[results["run"] == results["run"][0]] = False
    broken = Results({**results.columns, KL: kl, "final": final})
    total = tables.data_table(broken, arm_styles(results)).rows[-1]
    assert total[2:] == (str(results.n_runs), str(len(results)), "2", "3", "1", "1")


def test_measured_uses_points_for_accuracy_and_plain_numbers_for_r2():
    assert tables.measured(verdict()) == "0.12 [0.10, 0.20]"
    assert tables.measured(verdict(ours=Interval(0.012, 0.01, 0.02, 5))) == "0.012 [0.010, 0.020]"
    points = verdict(quantity="forgetting, against 0")
    assert tables.measured(points) == "12.3 points [10.0, 20.0]"
    assert tables.measured(verdict(ours=None)) == "n/a"
    assert tables.measured(verdict(ours=None, quantity="forgetting")) == "n/a"


@pytest.mark.parametrize("width", [80, 100])
def test_the_answer_fits_the_terminal_and_loses_no_word(width):
    long = "One claim that is much longer than a column of a terminal can be, by far."
    found = [
        verdict(claim=long),
        verdict(claim="Short.", ours=None, word=UNDECIDED),
        verdict(ours=Interval(0.5, np.nan, np.nan, 1), n_seeds=1),
        verdict(claim="W" * 150),
    ]
    lines = tables.answer_text(found, width=width).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert all(word in text for word in long.split())
    assert "0.50 (no interval)" in text
    assert "12,345" in text
    assert "undecided" in text


def test_the_answer_on_results(results):
    text = tables.answer_text(verdicts(results, resamples=9))
    assert max(map(len, text.splitlines())) <= 100
    assert "KL(base||policy)" in text  # a terminal may lack the printed sign


def test_the_answers_of_several_studies_say_whose_they_are():
    found = {"digits": [verdict(), verdict()], "a study of many words": [verdict(claim="Third.")]}
    lines = tables.answer_text(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split()[:2] == ["study", "claim"]
    assert [line.split()[0] for line in lines if "holds" in line] == ["digits", "digits", "a"]
    assert sum(set(line) == {"-"} for line in lines) == 2
    one = found["digits"]
    assert tables.answer_text({"digits": one}) == tables.answer_text(one)
