import math

import numpy as np
import pytest

from rlrazor.analysis.law import left_out, quadratic_law, within_arms
from rlrazor.analysis.predictors import (
    PREDICTORS,
    Predictor,
    compare_predictors,
    no_law_reason,
    predictor_table,
)
from rlrazor.analysis.results import Results, load_results
from rlrazor.lines import KL
from tests.oracles import synthetic_results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("predictors") / "results.jsonl"
    return load_results(synthetic_results.write(path, arms=("sft1", "grpo", "simpo")))


def test_every_measured_column_is_in_the_table_with_the_papers_numbers():
    paper = [p.paper_r2 for p in PREDICTORS if p.paper_r2 is not None]
    assert sorted(paper, reverse=True) == [0.96, 0.93, 0.80, 0.58, 0.58, 0.56, 0.55, 0.52, 0.34]
    measured = set(synthetic_results.lines(arms=("sft1",), seeds=1)[0])
    kinds = ("kl", "total", "l2", "activation", "cka", "cknna")
    wanted = {
        name
        for name in measured
        if name.startswith("weights/") or name.split("/")[-1].split("_")[0] in kinds
    }
    columns = [p.column for p in PREDICTORS]
    assert set(columns) == wanted
    assert len(set(columns)) == len({p.label for p in PREDICTORS}) == len(columns)


def test_rows_are_the_laws_numbers(results):
    row = predictor_table(results, [Predictor("weights/l1", "L1", 0.34)], resamples=200)[0]
    law = quadratic_law(results, "weights/l1", resamples=200)
    transfer = left_out(results, "weights/l1", resamples=200)
    assert row.pooled == law.r2
    assert row.within == within_arms(results, "weights/l1", resamples=200)[1]
    assert row.left_out == transfer.r2_inside
    assert row.left_out_error == transfer.mean_absolute_error
    assert (row.n_rows, row.n_excluded, row.reason) == (len(results), 0, "")


def test_what_has_no_number_says_why(results):
    columns = dict(results.columns)
    del columns["new/cka"]
    columns["weights/l2"] = np.full(len(results), math.nan)
    columns["weights/l1"] = np.where(np.arange(len(results)) < 4, math.inf, columns["weights/l1"])
    rows = {r.predictor.column: r for r in predictor_table(Results(columns), resamples=20)}
    assert rows["new/cka"].reason == "not measured"
    assert rows["weights/rank"].reason == "the same in every run (256)"
    assert rows["weights/l2"].reason == f"only 0 finite rows ({len(results)} not finite)"
    assert rows["weights/l2"].pooled is None
    assert rows["weights/l1"].n_excluded == 4
    assert rows["weights/l1"].pooled is not None
    still = Results(columns | {"prior/accuracy": columns["prior/base_accuracy"]})
    assert no_law_reason(still, KL) == "forgetting is the same in every run"


def test_difference_is_of_the_two_r2s_on_shared_rows(results):
    gap = compare_predictors(results, KL, "weights/l1")
    apart = [quadratic_law(results, name).r2.estimate for name in (KL, "weights/l1")]
    assert gap.estimate == pytest.approx(apart[0] - apart[1])
    assert gap.low > 0
    back = compare_predictors(results, "weights/l1", KL)
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))
    same = compare_predictors(results, KL, KL)
    assert (same.low, same.estimate, same.high) == (0, 0, 0)
    hole = dict(results.columns)
    hole["weights/l1"] = np.where(np.arange(len(results)) % 2, math.nan, hole["weights/l1"])
    shared = results.select(np.arange(len(results)) % 2 == 0)
    assert compare_predictors(Results(hole), KL, "weights/l1") == compare_predictors(
        shared, KL, "weights/l1"
    )
    strict = compare_predictors(results, KL, "weights/l1", level=0.999)
    assert strict.low < gap.low
