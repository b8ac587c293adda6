import json

import numpy as np
import pytest
from scipy import stats

from rlrazor.analysis.trajectory import (
    COSINE,
    KL_CHANGE,
    load_trajectory,
    step_correlations,
)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def steps(run="r", arm="grpo", seed=0, n=20, rng_seed=0):
    rng = np.random.default_rng([rng_seed, seed])
    cosines = rng.uniform(-1, 1, n)
    changes = 0.1 * cosines + 0.05 * rng.standard_normal(n)
    return [
        {"run": run, "arm": arm, "seed": seed, "step": i, COSINE: c, KL_CHANGE: k, "other": 1}
        for i, (c, k) in enumerate(zip(cosines.tolist(), changes.tolist(), strict=True))
    ]


def test_columns_and_non_finite_steps(tmp_path):
    rows = [
        *steps(n=3),
        {**steps(n=1)[0], COSINE: None},
        {**steps(n=1)[0], KL_CHANGE: float("nan")},
    ]
    found = load_trajectory(write(tmp_path / "t.jsonl", rows))
    assert len(found) == 3
    assert found.n_excluded == 2
    assert found.arms == ("grpo",)
    np.testing.assert_array_equal(found["step"], [0, 1, 2])


def test_correlation_is_spearmans_averaged_over_seeds(tmp_path):
    rows = [*steps("a", seed=0), *steps("b", seed=1), *steps("c", seed=2)]
    (entry,) = step_correlations(load_trajectory(write(tmp_path / "t.jsonl", rows)))
    expected = [
        stats.spearmanr(*([row[k] for row in steps(seed=s)] for k in (COSINE, KL_CHANGE)))[0]
        for s in range(3)
    ]
    assert entry.correlation.estimate == pytest.approx(np.mean(expected))
    assert entry.correlation.n == 3
    assert entry.correlation.known
    assert (entry.n_runs, entry.n_steps) == (3, 60)


def test_one_seed_has_no_interval_and_constant_steps_no_estimate(tmp_path):
    flat = [{**row, "arm": "sft1", KL_CHANGE: 0.0} for row in steps("f")]
    rows = [*steps("a"), *flat]
    alone, constant = step_correlations(load_trajectory(write(tmp_path / "t.jsonl", rows)))
    assert not alone.correlation.known
    assert np.isfinite(alone.correlation.estimate)
    assert np.isnan(constant.correlation.estimate)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"t\.jsonl:1 is not JSON"), ("{}", r"t\.jsonl:1 lacks run"), ("[]", "lacks run")],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    path = tmp_path / "t.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(ValueError, match=message):
        load_trajectory(path)
