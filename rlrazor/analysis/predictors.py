"""Every measured change of the policy as a predictor of forgetting, beside the paper's R2."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlrazor.analysis import papers
from rlrazor.analysis.law import (
    MIN_ROWS,
    law_rows,
    left_out,
    pooled_r2,
    seed_moments,
    within_arms,
)
from rlrazor.analysis.moments import r_squared
from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import RESAMPLES, Interval, cluster_bootstrap


@dataclass(frozen=True)
class Predictor:
    """A column, its name for readers, and what others measured with it."""

    column: str
    label: str
    paper_r2: float | None = None  # RL's Razor, Table 1 (ParityMNIST, second-degree fit)
    replication_r2: float | None = None  # SakanaAI/rl-razor-mnist, one seed


def _predictor(column: str, label: str) -> Predictor:
    return Predictor(column, label, *papers.TABLE_1.get(column, (None, None)))


# The paper does not say on which inputs it took the activation change; new-task inputs here.
PREDICTORS: tuple[Predictor, ...] = (
    _predictor("new/kl_base_policy_nats", "KL(base||policy), new task"),
    _predictor("new/kl_policy_base_nats", "KL(policy||base), new task"),
    _predictor("new/total_variation", "total variation, new task"),
    _predictor("new/l2_distance", "L2 of probabilities, new task"),
    _predictor("weights/fisher_l2", "weight change, Fisher L2"),
    _predictor("weights/spectral_norm", "weight change, spectral norm"),
    _predictor("weights/l1", "weight change, L1"),
    _predictor("weights/l2", "weight change, L2"),
    _predictor("weights/rank", "weight change, rank"),
    _predictor("weights/sparsity", "weight change, sparsity"),
    _predictor("new/activation_l1", "activation change L1, new task"),
    _predictor("new/activation_l2", "activation change L2, new task"),
    _predictor("new/cka", "CKA with the base, new task"),
    _predictor("new/cknna", "CKNNA with the base, new task"),
    _predictor("prior/kl_base_policy_nats", "KL(base||policy), prior tasks"),
    _predictor("prior/kl_policy_base_nats", "KL(policy||base), prior tasks"),
    _predictor("prior/total_variation", "total variation, prior tasks"),
    _predictor("prior/l2_distance", "L2 of probabilities, prior tasks"),
    _predictor("prior/activation_l1", "activation change L1, prior tasks"),
    _predictor("prior/activation_l2", "activation change L2, prior tasks"),
    _predictor("prior/cka", "CKA with the base, prior tasks"),
    _predictor("prior/cknna", "CKNNA with the base, prior tasks"),
)
# Where answers differ in length, KL a token is another predictor; the paper does not say which.
PER_TOKEN: tuple[Predictor, ...] = (
    _predictor("new/kl_base_policy_nats_per_token", "KL(base||policy) a token, new task"),
    _predictor("new/kl_policy_base_nats_per_token", "KL(policy||base) a token, new task"),
    _predictor("prior/kl_base_policy_nats_per_token", "KL(base||policy) a token, prior tasks"),
    _predictor("prior/kl_policy_base_nats_per_token", "KL(policy||base) a token, prior tasks"),
)


@dataclass(frozen=True)
class PredictorRow:
    """One predictor's R2s; Intervals are None where `reason` says why."""

    predictor: Predictor
    pooled: Interval | None  # quadratic over all arms
    within: Interval | None  # mean over arms of the R2 of each arm's own quadratic
    left_out: Interval | None  # arms predicted from the others, inside the fitted range
    left_out_error: float  # the same as a mean absolute error, fraction of one; NaN if none
    n_rows: int
    n_excluded: int  # rows with a non-finite value
    reason: str  # "" or why there is no number


def predictor_table(
    results: Results,
    predictors: Sequence[Predictor] = PREDICTORS,
    *,
    resamples: int = RESAMPLES,
) -> list[PredictorRow]:
    """One row a predictor, in the order given."""
    return [_row(results, predictor, resamples) for predictor in predictors]


def measured(results: Results) -> list[Predictor]:
    """Those that these results have a column for, PER_TOKEN included."""
    return [p for p in (*PREDICTORS, *PER_TOKEN) if p.column in results]


def compare_predictors(
    results: Results,
    reference: str,
    rival: str,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Pooled R2 of reference minus rival, on the same rows and the same resampled seeds."""
    rows, _ = law_rows(results, reference, rival)
    moments = [seed_moments(rows, name) for name in (reference, rival)]

    def difference(weights):
        first, second = (m.weighted(weights) for m in moments)
        sst = first.sst()  # the same rows: the same SST
        return r_squared(first.sse(first.fit()), sst) - r_squared(second.sse(second.fit()), sst)

    return cluster_bootstrap(
        difference, len(rows.seeds), resamples=resamples, level=level, kind="r2 difference"
    )


def no_law_reason(results: Results, column: str, what: str = "forgetting") -> str:
    """Why no law of `what` in this column can be fitted, "" if it can."""
    if column not in results:
        return "not measured"
    if not results.has("prior/accuracy"):
        return f"{what} was not measured"
    rows, excluded = law_rows(results, column)
    if len(rows) < MIN_ROWS:
        return f"only {len(rows)} finite rows ({excluded} not finite)"
    values = rows[column]
    if np.ptp(values) <= 1e-12 * np.max(np.abs(values)):
        return f"the same in every run ({float(values[0]):g})"
    if np.ptp(rows["forgetting"]) == 0:
        return f"{what} is the same in every run"
    return ""


def _row(results: Results, predictor: Predictor, resamples: int) -> PredictorRow:
    column = predictor.column
    rows, excluded = law_rows(results, column) if column in results else (results.trained(), 0)
    n_rows = len(rows) if column in results else 0
    if reason := no_law_reason(results, column):
        return PredictorRow(predictor, None, None, None, math.nan, n_rows, excluded, reason)
    _, within = within_arms(rows, column, resamples=resamples)
    transfer = left_out(rows, column, resamples=resamples)
    return PredictorRow(
        predictor,
        pooled_r2(rows, column, resamples=resamples),
        within,
        transfer.r2_inside,
        transfer.mean_absolute_error,
        n_rows,
        excluded,
        "",
    )
