import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.razor_theory import get_config
from experiments.theory import figures, log_linear, random_families, tabular
from experiments.theory.closest import closest_on_faces, constrained_minimum, is_face
from experiments.theory.records import curve, finding, json_line, table, trace


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


SQUARE = np.array([[[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]]])


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ((0,), True), ((0, 1), True), ((0, 2), False), ((4,), False), ((0, 1, 2), False),
        ((0, 1, 2, 3, 4), True),
    ],
)  # fmt: skip
def test_faces_of_a_square(kept, expected):
    assert is_face(np.isin(np.arange(5), kept)[None], SQUARE) is expected


def test_faces_are_shared_between_states():
    line = np.array([[[0.0], [1.0]], [[0.0], [1.0]]])
    same, opposite = np.array([[False, True]] * 2), np.array([[False, True], [True, False]])
    assert is_face(same, line)
    assert not is_face(opposite, line)  # no theta likes 1 here and 0 there


def test_closest_on_faces_takes_the_likeliest_edge_and_agrees_with_slsqp():
    log_base = np.log(np.array([[0.15, 0.2, 0.3, 0.15, 0.2]]))
    correct = np.array([[True, True, True, False, False]])
    policy, nats = closest_on_faces(log_base, SQUARE, correct)
    np.testing.assert_allclose(policy, [[0, 0.4, 0.6, 0, 0]])
    np.testing.assert_allclose(nats, -np.log(0.5))

    def family(theta, features):
        return jax.nn.log_softmax(log_base + features @ theta)

    starts = [np.array([0.1, -0.1]), np.array([-0.1, -0.1]), np.zeros(2)]
    theta, value = constrained_minimum(family, (SQUARE,), log_base, correct, starts, failure=1e-8)
    np.testing.assert_allclose(value, nats, atol=1e-6)
    np.testing.assert_allclose(np.exp(family(theta, SQUARE)), policy, atol=1e-3)


def test_closest_on_faces_without_an_optimal_policy():
    with pytest.raises(ValueError, match="holds no optimal policy"):
        closest_on_faces(np.log(np.full((1, 5), 0.2)), SQUARE, np.arange(5)[None] == 4)


def test_constrained_minimum_is_infinite_where_nothing_is_feasible():
    def family(theta):  # theta has no effect
        return jnp.log(jnp.array([[0.5, 0.5]])) + 0 * theta[None]

    start = [np.zeros(1)]
    correct = np.array([[True, False]])
    log_base = family(start[0])
    assert constrained_minimum(family, (), log_base, correct, start, failure=0.1)[1] == math.inf


@pytest.mark.parametrize(
    ("name", "number"),
    [("farther", math.log(4 / 3)), ("stalled", 0.5996660467938547), ("triangle", 0.0607794152)],
)
def test_counterexamples(name, number):
    first = log_linear.check_case(name, get_config().log_linear)[0]
    assert first["verdict"] == "fails"
    np.testing.assert_allclose(first["number"], number, atol=1e-8)


def test_only_the_m_step_forgets_the_base():
    found = {r["claim"]: r for r in log_linear.check_pythagoras(get_config().log_linear)}
    verdicts = {claim[0]: [] for claim in found}
    for claim, record in found.items():
        verdicts[claim[0]].append(record["verdict"])
    assert verdicts == {"I": ["holds", "holds"], "M": ["holds", "fails"]}


def test_a_case_without_a_correct_action_is_refused():
    config = get_config().log_linear
    config.cases.farther.correct = (0, 0, 0)
    with pytest.raises(ValueError, match=r"states \[0\] have no correct action"):
        log_linear.check_case("farther", config)


def test_random_families_are_solvable_and_not_solved():
    log_base, features, correct = random_families.random_families(
        get_config("quick").log_linear, np.random.default_rng(0)
    )
    np.testing.assert_allclose(np.exp(log_base).sum(-1), 1)
    assert not correct.all(-1).any()
    for family in zip(log_base, features, correct, strict=True):
        assert np.isfinite(closest_on_faces(*family)[1])


def test_gap_and_failure_of_known_policies():
    base = jnp.log(jnp.array([[0.25, 0.25, 0.5]]))
    paths = jnp.log(jnp.array([[[0.25, 0.25, 0.5], [0.6, 0.2, 0.2]]]))
    gap, failure = tabular.gap_and_failure(paths, base, jnp.array([True, True, False]))
    np.testing.assert_allclose(failure, [[0.5, 0.2]])
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(gap, [[0, expected]], atol=1e-12)


def test_at_failure_takes_the_first_crossing_or_nan():
    values, failures = np.arange(6.0).reshape(2, 3), np.array([[0.5, 0.1, 0.2], [0.5, 0.4, 0.3]])
    np.testing.assert_array_equal(tabular.at_failure(values, failures, 0.1), [1.0, np.nan])


def test_records_are_strict_json():
    empty = curve("a", "gap", "s", 1.0, [np.nan])
    assert (empty["y"], empty["runs"]) == (None, 0)
    assert curve("a", "gap", "s", 1.0, [1.0, 2.0, 3.0, np.nan])["y"] == 2.0
    line = json_line(finding("a", "claim", None, "words", np.nan))
    assert json.loads(line)["number"] is None
    assert json.loads(line)["verdict"] == "measured"
    assert trace("a", "f", "s", jnp.ones((2, 2)))["points"] == [[1, 1], [1, 1]]


def test_table_shows_verdict_number_and_claim():
    records = [finding("b", "the claim", False, "the words", 0.28768), curve("a", "f", "s", 1, [1])]
    assert table(records).splitlines() == [
        "(b) fails          0.288  the claim",
        " " * 26 + "the words",
    ]


def test_direction_gap_matches_its_closed_form():
    bases = jnp.log(jnp.array([[0.3, 0.2, 0.5]]))
    levels = (1e-2, 1e-4, 1e-6)
    records = tabular.check_direction(levels, bases, jnp.array([True, True, False]))
    values = {(r["series"], r["x"]): r["y"] for r in records if r["kind"] == "curve"}
    for x in levels:
        backward = 0.5 * np.log(0.5 / (1 - x)) + 0.5 * np.log(0.5 / x)
        np.testing.assert_allclose(values["KL(pi0||pi)", x], backward)
        forward = (1 - x) * np.log((1 - x) / 0.5) + x * np.log(x / 0.5)
        np.testing.assert_allclose(values["KL(pi||pi0)", x], forward)
    np.testing.assert_allclose(records[-1]["number"], 0.5, atol=1e-4)


def test_config_modes():
    full, quick = get_config(), get_config("quick")
    assert set(full) == set(quick)
    assert quick.tabular.bases < full.tabular.bases
    with pytest.raises(ValueError, match="mode='fast' must be 'full' or 'quick'"):
        get_config("fast")


@pytest.mark.slow
def test_quick_mode_runs_writes_and_draws(tmp_path):
    command = [sys.executable, "experiments/razor_theory.py", f"--workdir={tmp_path}"]
    done = subprocess.run(
        [*command, "--config=configs/razor_theory.py:quick"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "the alternation reaches pi_dagger" in done.stdout
    records = figures.load(tmp_path / "theory.jsonl")
    assert {r["part"] for r in records} == {"a", "b", "c"}
    for stem in ("theory_tabular", "theory_log_linear", "theory_curved"):
        assert (tmp_path / f"{stem}.png").stat().st_size > 10_000
        assert (tmp_path / f"{stem}.svg").stat().st_size > 10_000
