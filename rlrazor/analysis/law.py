"""The forgetting law: forgetting as a curve in a predictor, pooled, within arms and left out.

The paper fits one second-degree polynomial to all methods' points and reports R2 (.96 on
ParityMNIST, .71 on language models). R2 here is 1 - SSE / SST; intervals resample seeds.
Rows of step 0 (the base itself) and rows with non-finite values are left out, the latter counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import isotonic_regression

from rlrazor.analysis.moments import Moments, polynomial_basis, r_squared
from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import R2_SCALE, RESAMPLES, Interval, cluster_bootstrap
from rlrazor.lines import KL

MIN_ROWS = 6  # twice the coefficients: fewer rows than that fit themselves
MIN_ROWS_OF_ARM = 12  # of a fit within an arm, whose R2 is also adjusted for the three coefficients


@dataclass(frozen=True, eq=False)
class Law:
    """A fitted curve, pooled over all rows."""

    predictor: str
    kind: str  # "quadratic" or "isotonic"
    r2: Interval
    mean_absolute_error: float  # of forgetting, fraction of one
    curve_x: np.ndarray  # f64[P] increasing, from the lowest to the highest predictor fitted
    curve_y: np.ndarray  # f64[P]
    coefficients: np.ndarray | None  # f64[3] constant, linear, quadratic; None for isotonic
    n_rows: int
    n_runs: int
    n_seeds: int
    n_excluded: int  # rows left out for a non-finite value

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Forgetting at x; quadratic extrapolates, isotonic stays at its end values."""
        if self.coefficients is None:
            return np.interp(x, self.curve_x, self.curve_y)
        return np.polynomial.polynomial.polyval(x, self.coefficients)


@dataclass(frozen=True)
class WithinArm:
    """How well the predictor orders the runs of one arm."""

    arm: str
    r2: Interval  # own curve, fitted to this arm alone; adjusted for its coefficients
    shared_r2: float  # the pooled curve on this arm's rows, about the arm's mean; may be negative
    spread: float  # standard deviation of forgetting in the arm: small spread makes R2 unkind
    n_rows: int
    n_runs: int
    n_seeds: int


@dataclass(frozen=True)
class LeftOut:
    """The curve of all other arms, judged on rows of arms it has not seen."""

    name: str  # the arm, or the name of the group of arms left out together
    r2: Interval  # out of sample, all rows, extrapolated where needed; may be far below 0
    r2_inside: Interval  # only rows within the fitted range of the predictor
    mean_absolute_error: float  # inside rows, fraction of one
    bias: float  # mean observed - predicted, inside rows; positive: forgets more than the law says
    share_outside: float  # of the rows, beyond the range of the predictor that was fitted
    n_rows: int
    n_runs: int
    n_seeds: int


@dataclass(frozen=True)
class LeftOutSummary:
    """All left-out predictions in one number: 1 - sum of SSE / sum of SST over the parts.

    SST is about each part's own mean, so a curve that only tells the arms apart scores 0 or less.
    """

    r2_inside: Interval
    mean_absolute_error: float  # mean over inside rows, fraction of one
    share_outside: float  # of all rows
    parts: tuple[LeftOut, ...]


def law_rows(results: Results, *predictors: str) -> tuple[Results, int]:
    """The rows a law is fitted to, and how many non-finite ones that left out."""
    return results.trained().finite("forgetting", *predictors)


def quadratic_law(results: Results, predictor: str = KL, *, resamples: int = RESAMPLES) -> Law:
    """The paper's fit: forgetting = c0 + c1 x + c2 x^2 over all rows."""
    rows, excluded = law_rows(results, predictor)
    x, y = _checked(rows, predictor)
    power_series = np.polynomial.Polynomial.fit(x, y, 2).convert().coef
    coefficients = np.pad(power_series, (0, 3 - len(power_series)))
    curve_x = np.linspace(np.min(x), np.max(x), 200)
    return Law(
        predictor,
        "quadratic",
        pooled_r2(rows, predictor, resamples=resamples),
        float(np.mean(np.abs(y - np.polynomial.polynomial.polyval(x, coefficients)))),
        curve_x,
        np.polynomial.polynomial.polyval(curve_x, coefficients),
        coefficients,
        len(rows),
        rows.n_runs,
        len(rows.seeds),
        excluded,
    )


def isotonic_law(results: Results, predictor: str = KL, *, resamples: int = 200) -> Law:
    """The best monotone curve, whatever its shape; it falls where the predictor is a similarity.

    It bends to its rows more freely than a quadratic, so its R2 is an upper mark rather than a
    fair rival: a low one says that no monotone law in this predictor exists.
    """
    rows, excluded = law_rows(results, predictor)
    x, y = _checked(rows, predictor)
    increasing = bool(np.cov(x, y)[0, 1] >= 0)
    knots, index = np.unique(x, return_inverse=True)  # equal x must get equal predictions
    seeds, seed = np.unique(rows["seed"], return_inverse=True)

    def fit(weights):  # f64[N] of rows -> knots in use, values there
        weight = np.bincount(index, weights, len(knots))
        used = weight > 0
        mean = np.bincount(index, weights * y, len(knots))[used] / weight[used]
        return used, isotonic_regression(mean, weights=weight[used], increasing=increasing).x

    def statistic(weights):
        out = []
        for row_weights in weights[:, seed]:
            used, values = fit(row_weights)
            predicted = np.empty(len(knots))
            predicted[used] = values
            positive = row_weights > 0
            w, observed = row_weights[positive], y[positive]
            sse = np.sum(w * (observed - predicted[index[positive]]) ** 2)
            sst = np.sum(w * (observed - np.average(observed, weights=w)) ** 2)
            out.append((sse, sst))
        return r_squared(*np.array(out).T)

    _, values = fit(np.ones(len(y)))
    corner = np.ones(len(knots), bool)  # the ends of each flat stretch carry the whole curve
    corner[1:-1] = (values[1:-1] != values[:-2]) | (values[1:-1] != values[2:])
    return Law(
        predictor,
        "isotonic",
        cluster_bootstrap(statistic, len(seeds), resamples=resamples, scale=R2_SCALE, kind="r2"),
        float(np.mean(np.abs(y - values[index]))),
        knots[corner],
        values[corner],
        None,
        len(rows),
        rows.n_runs,
        len(seeds),
        excluded,
    )


def pooled_r2(results: Results, predictor: str = KL, *, resamples: int = RESAMPLES) -> Interval:
    """R2 of the quadratic over all rows given."""
    seeds = seed_moments(results, predictor)
    return cluster_bootstrap(
        lambda weights: _fitted_r2(seeds.weighted(weights)),
        len(seeds.n),
        resamples=resamples,
        scale=R2_SCALE,
        kind="r2",
    )


def within_arms(
    results: Results, predictor: str = KL, *, resamples: int = RESAMPLES
) -> tuple[list[WithinArm], Interval]:
    """One entry an arm, and the mean R2 over arms with its interval over seeds.

    An arm with fewer than MIN_ROWS_OF_ARM rows, or in which nothing varies, has R2 NaN and no
    part in the mean. R2 is adjusted, 1 - (1 - R2) (n - 1) / (n - 3) of n rows: a dozen rows of
    which three coefficients explain nothing have an R2 of .18.
    """
    rows, _ = law_rows(results, predictor)
    x, y = _checked(rows, predictor)
    shared = np.polynomial.Polynomial.fit(x, y, 2)(x)
    all_seeds = rows.seeds
    entries, moments = [], []
    for arm in rows.arms:
        mask = rows["arm"] == arm
        part, own_y = rows.select(mask), y[mask]
        sst = float(np.sum((own_y - np.mean(own_y)) ** 2))
        enough = len(part) >= MIN_ROWS_OF_ARM and np.ptp(x[mask]) > 0 and sst > 0
        if enough:
            moments.append((seed_moments(part, predictor, all_seeds), len(part)))
            whole = pooled_r2(part, predictor, resamples=resamples)
            r2 = replace(
                whole,
                **{
                    name: float(adjusted_r2(getattr(whole, name), len(part)))
                    for name in ("estimate", "low", "high")
                },
            )
        else:
            r2 = Interval(math.nan, math.nan, math.nan, len(part.seeds))
        shared_sse = np.sum((own_y - shared[mask]) ** 2)
        entries.append(
            WithinArm(
                arm,
                r2,
                float(r_squared(np.asarray(shared_sse), np.asarray(sst))),
                float(np.std(own_y)),
                len(part),
                part.n_runs,
                len(part.seeds),
            )
        )

    def mean_r2(weights):
        values = np.stack([adjusted_r2(_fitted_r2(m.weighted(weights)), n) for m, n in moments])
        present = np.isfinite(values)
        total = np.sum(np.where(present, values, 0.0), 0)
        return np.where(present.any(0), total / np.maximum(present.sum(0), 1), np.nan)

    if not moments:
        return entries, Interval(math.nan, math.nan, math.nan, len(all_seeds))
    mean = cluster_bootstrap(
        mean_r2, len(all_seeds), resamples=resamples, scale=R2_SCALE, kind="r2"
    )
    return entries, mean


def adjusted_r2(r2: np.ndarray, rows: int) -> np.ndarray:
    """For the three coefficients of a quadratic: unbiased where they explain nothing."""
    return 1 - (1 - np.asarray(r2)) * (rows - 1) / (rows - 3)


def left_out(
    results: Results,
    predictor: str = KL,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,  # None: every arm by itself
    resamples: int = RESAMPLES,
) -> LeftOutSummary:
    """Predicts each group of arms from the quadratic of all other arms.

    Variants of one method (grpo and grpo_std, say) vouch for each other when left out singly;
    `groups={"RL": results.rl}` leaves a whole family out. Extrapolated rows are reported apart,
    since a quadratic bends away beyond its data. Groups with no rows are skipped.
    """
    rows, _ = law_rows(results, predictor)
    x, y = _checked(rows, predictor)
    groups = {arm: (arm,) for arm in rows.arms} if groups is None else groups
    q, centred = polynomial_basis(x), y - np.mean(y)
    seeds, seed = np.unique(rows["seed"], return_inverse=True)
    parts, errors, sums = [], [], []
    for name, arms in groups.items():
        out = np.isin(rows["arm"], arms)
        if not out.any() or np.sum(~out) < MIN_ROWS:
            continue
        inside = out & (x >= np.min(x[~out])) & (x <= np.max(x[~out]))
        fitted, tested, within = (
            Moments.sums(q[mask], centred[mask], seed[mask], len(seeds))
            for mask in (~out, out, inside)
        )
        curve = np.polynomial.Polynomial.fit(x[~out], y[~out], 2)
        error = y[inside] - curve(x[inside])
        part = rows.select(out)
        n_seeds = len(part.seeds)
        parts.append(
            LeftOut(
                name,
                _out_of_sample_r2([(fitted, tested)], n_seeds, resamples),
                _out_of_sample_r2([(fitted, within)], n_seeds, resamples),
                float(np.mean(np.abs(error))) if len(error) else math.nan,
                float(np.mean(error)) if len(error) else math.nan,
                1 - float(np.sum(inside) / np.sum(out)),
                len(part),
                part.n_runs,
                n_seeds,
            )
        )
        errors.append(error)
        sums.append((fitted, within))
    error = np.concatenate(errors) if errors else np.empty(0)
    n_rows = sum(part.n_rows for part in parts)
    return LeftOutSummary(
        _out_of_sample_r2(sums, len(seeds), resamples),
        float(np.mean(np.abs(error))) if len(error) else math.nan,
        1 - len(error) / n_rows if n_rows else math.nan,
        tuple(parts),
    )


def seed_moments(
    results: Results, predictor: str, seeds: np.ndarray | None = None
) -> Moments:  # leading axis S
    """The sums of the quadratic fit, one row a seed (of `seeds`, or of those present)."""
    x, y = results[predictor].astype(float), results["forgetting"]
    seeds = results.seeds if seeds is None else seeds
    cell = np.searchsorted(seeds, results["seed"])
    return Moments.sums(polynomial_basis(x), y - np.mean(y), cell, len(seeds))


def _fitted_r2(moments: Moments) -> np.ndarray:
    return r_squared(moments.sse(moments.fit()), moments.sst())


def _out_of_sample_r2(
    sums: list[tuple[Moments, Moments]],  # (fitted, tested), leading axis S
    n_seeds: int,  # of the rows tested, what the interval reports
    resamples: int,
) -> Interval:
    """1 - sum of SSE / sum of SST over pairs of fitted and tested rows."""
    if not sums or sum(float(np.sum(tested.n)) for _, tested in sums) < MIN_ROWS:
        return Interval(math.nan, math.nan, math.nan, n_seeds)

    def statistic(weights):
        sse, sst = np.zeros(len(weights)), np.zeros(len(weights))
        for fitted, tested in sums:
            rows = tested.weighted(weights)
            sse += rows.sse(fitted.weighted(weights).fit())
            sst += rows.sst()
        return r_squared(sse, sst)

    interval = cluster_bootstrap(
        statistic, len(sums[0][0].n), resamples=resamples, scale=R2_SCALE, kind="r2"
    )
    if n_seeds < 2:  # other arms' seeds do not say how this one's would vary
        return Interval(interval.estimate, math.nan, math.nan, n_seeds)
    return replace(interval, n=n_seeds)


def _checked(rows: Results, predictor: str) -> tuple[np.ndarray, np.ndarray]:
    """(predictor f64[N], forgetting f64[N]), or ValueError where no law can be fitted."""
    x, y = rows[predictor].astype(float), rows["forgetting"]
    if len(rows) < MIN_ROWS:
        raise ValueError(
            f"{len(rows)} finite rows after step 0 for {predictor!r}; a law needs {MIN_ROWS}"
        )
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        name = predictor if np.ptp(x) == 0 else "forgetting"
        raise ValueError(f"{name!r} is the same in all {len(rows)} rows; there is no law to fit")
    return x, y
