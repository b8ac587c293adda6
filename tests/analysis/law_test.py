import math

import numpy as np
import pytest

from rlrazor.analysis.law import (
    adjusted_r2,
    isotonic_law,
    left_out,
    pooled_r2,
    quadratic_law,
    within_arms,
)
from rlrazor.analysis.results import Results, load_results
from rlrazor.analysis.statistics import R2_SCALE, cluster_bootstrap
from rlrazor.lines import KL
from tests.oracles import synthetic_results
from tests.oracles.tiny_results import of_points

ARMS = ("sft1", "oracle", "grpo", "simpo")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("law") / "results.jsonl"
    return load_results(synthetic_results.write(path, arms=ARMS, seed_noise=0.1))


def plain_r2(x, y, fit_x=None, fit_y=None):
    """The definition, by NumPy's own polynomial fit."""
    curve = np.polynomial.Polynomial.fit(*((x, y) if fit_x is None else (fit_x, fit_y)), 2)
    return 1 - np.sum((y - curve(x)) ** 2) / np.sum((y - np.mean(y)) ** 2)


def test_quadratic_is_polyfit(results):
    law = quadratic_law(results)
    x, y = results[KL], results["forgetting"]
    want = np.polyfit(x, y, 2)
    np.testing.assert_allclose(law.coefficients, want[::-1], rtol=1e-8)
    assert law.r2.estimate == pytest.approx(plain_r2(x, y), rel=1e-9)
    assert law.mean_absolute_error == pytest.approx(np.mean(np.abs(y - np.polyval(want, x))))
    np.testing.assert_allclose(law.predict(x), np.polyval(want, x))
    assert (law.n_rows, law.n_runs, law.n_seeds) == (len(results), results.n_runs, 5)
    assert law.curve_x[0] == x.min()
    assert law.curve_x[-1] == x.max()


def test_the_law_that_was_put_in_comes_out(tmp_path):
    path = synthetic_results.write(tmp_path / "r.jsonl", arms=ARMS, noise=1e-6)
    law = quadratic_law(load_results(path))
    np.testing.assert_allclose(law.coefficients, [0.0, 0.08, -0.003], atol=1e-5)
    assert law.r2.estimate > 0.999999


def test_bootstrap_equals_refitting_copied_rows(results):
    """The sums per seed against the slow way: copy each drawn seed's rows and fit again."""
    x, y, seed = results[KL], results["forgetting"], results["seed"]

    def slow(weights):
        out = []
        for row in weights:
            rows = np.concatenate(
                [np.flatnonzero(seed == s) for s in np.repeat(range(5), row.astype(int))]
            )
            out.append(plain_r2(x[rows], y[rows]))
        return np.array(out)

    got = pooled_r2(results, resamples=60)
    want = cluster_bootstrap(slow, 5, resamples=60, scale=R2_SCALE)
    np.testing.assert_allclose([got.low, got.high], [want.low, want.high], rtol=1e-7)
    assert got.low < got.estimate < got.high < 1


def test_intervals_widen_with_disagreement_between_seeds_not_with_checkpoints(tmp_path):
    def width(**options):
        path = synthetic_results.write(tmp_path / "r.jsonl", arms=ARMS, **options)
        r2 = quadratic_law(load_results(path)).r2
        return r2.high - r2.low

    assert width(seed_noise=0.3) > 3 * width(seed_noise=0.0)
    # Ten times the checkpoints say little more about how seeds differ.
    assert width(seed_noise=0.3, checkpoints=30) > 0.5 * width(seed_noise=0.3, checkpoints=3)


def test_row_order_absent_values_and_step_zero_change_nothing(results):
    law = quadratic_law(results)
    shuffled = results.select(np.random.default_rng(0).permutation(len(results)))
    assert quadratic_law(shuffled).r2.estimate == pytest.approx(law.r2.estimate, rel=1e-12)
    extra = {name: np.concatenate([v, v[:3]]) for name, v in results.columns.items()}
    extra[KL][-3:] = [math.nan, math.inf, 0.0]
    extra["step"][-1] = 0
    more = quadratic_law(Results(extra))
    assert more.r2.estimate == pytest.approx(law.r2.estimate, rel=1e-12)
    assert more.n_excluded == 2
    assert law.n_excluded == 0


def test_one_seed_has_an_r2_and_no_interval(results):
    law = quadratic_law(results.select(results["seed"] == 0))
    assert not law.r2.known
    assert 0 < law.r2.estimate < 1
    assert not isotonic_law(results.select(results["seed"] == 0)).r2.known


def test_nothing_to_fit_is_an_error(results):
    with pytest.raises(ValueError, match="a law needs 6"):
        quadratic_law(results.select(np.arange(5)))
    with pytest.raises(ValueError, match="'new/kl_base_policy_nats' is the same in all 8 rows"):
        quadratic_law(of_points(np.ones(8), np.arange(8) / 80))
    with pytest.raises(ValueError, match="'forgetting' is the same"):
        quadratic_law(of_points(np.arange(8), np.zeros(8)))


def test_isotonic_by_hand():
    x = [1.0, 2.0, 2.0, 3.0, 4.0, 5.0]
    y = [0.0, 0.3, 0.1, 0.1, 0.4, 0.4]  # knots 0 | (.2 x2, .1) pool to 1/6 | .4 .4
    law = isotonic_law(of_points(x, y))
    np.testing.assert_allclose(law.predict(np.array(x)), [0, 1 / 6, 1 / 6, 1 / 6, 0.4, 0.4])
    sse = (0.3 - 1 / 6) ** 2 + 2 * (0.1 - 1 / 6) ** 2
    assert law.r2.estimate == pytest.approx(1 - sse / np.sum((np.array(y) - np.mean(y)) ** 2))
    np.testing.assert_allclose(law.predict(np.array([-9.0, 99.0])), [0.0, 0.4])  # flat beyond
    assert law.coefficients is None


def test_isotonic_falls_for_a_similarity_and_beats_no_monotone_curve():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=200)
    seed = np.arange(200) % 4
    steps = np.floor(4 * (1 - x)) / 10
    law = isotonic_law(of_points(x, steps, seed=seed))
    assert law.r2.estimate == pytest.approx(1.0)
    assert np.all(np.diff(law.curve_y) <= 0)
    noisy = steps + 0.05 * rng.standard_normal(200)
    flexible, stiff = (f(of_points(x, noisy, seed=seed)).r2 for f in (isotonic_law, quadratic_law))
    assert flexible.estimate > stiff.estimate
    assert flexible.low < flexible.estimate < flexible.high


def test_within_arms_fits_each_arm_alone(results):
    entries, mean = within_arms(results)
    assert [entry.arm for entry in entries] == list(results.arms)
    pooled = np.polyfit(results[KL], results["forgetting"], 2)
    for entry in entries:
        part = results.of_arms(entry.arm)
        x, y = part[KL], part["forgetting"]
        adjusted = 1 - (1 - plain_r2(x, y)) * (len(y) - 1) / (len(y) - 3)
        assert entry.r2.estimate == pytest.approx(adjusted, rel=1e-7)
        sse = np.sum((y - np.polyval(pooled, x)) ** 2)
        assert entry.shared_r2 == pytest.approx(1 - sse / np.sum((y - y.mean()) ** 2))
        assert entry.shared_r2 <= plain_r2(x, y)
        assert entry.spread == pytest.approx(np.std(y))
        assert entry.n_runs == part.n_runs
    assert mean.estimate == pytest.approx(np.mean([entry.r2.estimate for entry in entries]))
    assert mean.known


def test_pooled_r2_can_be_between_methods_only():
    """Two clouds: KL tells the methods apart and nothing within them."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 1, 60), rng.uniform(4, 5, 60)])
    y = np.where(x > 2, 0.4, 0.0) + 0.01 * rng.standard_normal(120)
    two = of_points(x, y, arm=["grpo"] * 60 + ["sft1"] * 60, seed=np.arange(120) % 5)
    assert pooled_r2(two).estimate > 0.97
    _, mean = within_arms(two)
    assert mean.estimate < 0.2
    apart = left_out(two)  # neither cloud lies in the other's range: nothing was tested
    assert apart.share_outside == 1
    assert math.isnan(apart.r2_inside.estimate)
    assert math.isnan(apart.mean_absolute_error)


def test_arms_too_small_or_constant_have_no_r2():
    x = np.concatenate([np.arange(12.0), np.arange(11.0), np.ones(14)])
    y = np.concatenate([np.arange(12.0) / 50, np.arange(11.0) / 50, np.arange(14) / 50])
    arm = ["sft1"] * 12 + ["grpo"] * 11 + ["dft"] * 14
    entries, mean = within_arms(of_points(x, y, arm=arm, seed=np.arange(37) % 2))
    known = {entry.arm: np.isfinite(entry.r2.estimate) for entry in entries}
    assert known == {"sft1": True, "grpo": False, "dft": False}
    assert mean.estimate == pytest.approx(1.0)


def test_adjusted_r2_of_noise_is_0_on_average():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        x, y = rng.uniform(size=12), rng.standard_normal(12)
        found.append((plain_r2(x, y), float(adjusted_r2(np.float64(plain_r2(x, y)), 12))))
    plain, adjusted = np.mean(found, axis=0)
    assert plain == pytest.approx(2 / 11, abs=0.03)
    assert adjusted == pytest.approx(0, abs=0.03)


def test_left_out_is_the_other_arms_curve(results):
    summary = left_out(results)
    sse, sst = 0.0, 0.0
    for part in summary.parts:
        mine = results["arm"] == part.name
        x, y = results[KL], results["forgetting"]
        assert part.r2.estimate == pytest.approx(
            plain_r2(x[mine], y[mine], x[~mine], y[~mine]), rel=1e-6
        )
        inside = mine & (x >= x[~mine].min()) & (x <= x[~mine].max())
        error = y[inside] - np.polyval(np.polyfit(x[~mine], y[~mine], 2), x[inside])
        assert part.share_outside == pytest.approx(1 - inside.sum() / mine.sum())
        assert part.mean_absolute_error == pytest.approx(np.mean(np.abs(error)))
        assert part.bias == pytest.approx(np.mean(error), abs=1e-12)
        within = np.sum((y[inside] - y[inside].mean()) ** 2)
        assert part.r2_inside.estimate == pytest.approx(1 - np.sum(error**2) / within, rel=1e-6)
        sse, sst = sse + np.sum(error**2), sst + within
    assert summary.r2_inside.estimate == pytest.approx(1 - sse / sst, rel=1e-7)
    outside = {part.name: part.share_outside for part in summary.parts}
    assert outside["sft1"] > 0  # it pays the most KL of all


def test_an_arm_off_the_curve_is_caught(tmp_path):
    path = synthetic_results.write(tmp_path / "r.jsonl", arms=ARMS, offsets={"grpo": 0.2})
    parts = {part.name: part for part in left_out(load_results(path)).parts}
    assert parts["grpo"].bias == pytest.approx(0.2, abs=0.02)
    assert parts["grpo"].r2_inside.high < 0


def test_groups_leave_families_out(results):
    summary = left_out(results, groups={"SFT": ("sft1", "simpo"), "none": ("absent",)})
    assert [part.name for part in summary.parts] == ["SFT"]
    x, y, mine = results[KL], results["forgetting"], np.isin(results["arm"], ("sft1", "simpo"))
    assert summary.parts[0].r2.estimate == pytest.approx(
        plain_r2(x[mine], y[mine], x[~mine], y[~mine]), rel=1e-6
    )
    alone = left_out(results.of_arms("sft1"))
    assert alone.parts == ()
    assert math.isnan(alone.r2_inside.estimate)


def test_a_left_out_arm_of_one_seed_has_no_interval(results):
    keep = (results["arm"] != "grpo") | (results["seed"] == 0)
    parts = {part.name: part for part in left_out(results.select(keep)).parts}
    assert not parts["grpo"].r2.known
    assert parts["simpo"].r2.known
