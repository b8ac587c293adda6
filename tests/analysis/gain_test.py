"""Against rules applied by hand to results whose truth is known."""

import json
import math

import numpy as np
import pytest

from rlrazor.analysis import gain as at
from rlrazor.analysis.report import make_report
from rlrazor.analysis.results import load_results
from rlrazor.analysis.verdicts import verdicts
from rlrazor.lines import pack_outcomes

HANDS, QUESTIONS = 1000, 800
RULE = "shift/rule/change"


def line(arm, rate, seed, step, *, gain, lost, change=0.0, kind="reported", bits=True, **more):
    """A checkpoint whose accuracies are made of outcomes: the first ones change."""

    def flipped(n, base, by):
        right = np.arange(n) < round(n * base)
        count = round(n * abs(by))
        right[np.flatnonzero(right == (by < 0))[:count]] ^= True
        return right

    new, shift = flipped(HANDS, 0.1, gain), flipped(HANDS, 0.05, change)
    prior = flipped(QUESTIONS, 0.9, -lost)
    family = "reward" if arm.startswith("rl") else "outside"
    places = {"new": new, "shift/rule": shift, "prior/add": prior}
    return {
        "schema": 2, "study": "mine", "run": f"{arm}-{rate}-{seed}", "arm": arm, "method": arm,
        "variant": "main", "family": family, "label": arm, "seed": seed, "step": step,
        "updates": step, "final": False, "diverged": False, "flops": 1.0, "flops_teacher": 0.0,
        "base": f"b{seed}", "new/accuracy": float(new.mean()), "new/base_accuracy": 0.1,
        "shift/rule/accuracy": float(shift.mean()), "shift/rule/base_accuracy": 0.05,
        "prior/accuracy": float(prior.mean()), "prior/base_accuracy": 0.9,
        "new/kl_base_policy_nats": 0.1 * step,
        "hyperparameters": {"learning_rate": rate, "base_seed": seed, "base_kind": kind},
        **({f"outcomes/{p}": pack_outcomes(b) for p, b in places.items()} if bits else {}),
        **more,
    }  # fmt: skip


def run(arm, rate, seed, curve, **more):
    """Checkpoints (gain, lost, change) after the base."""
    points = [(0.0, 0.0, 0.0), *curve]
    return [
        line(arm, rate, seed, step, gain=g, lost=f, change=c, **more)
        for step, (g, f, c) in enumerate(points)
    ]


def read(tmp_path, *runs):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for lines in runs for one in lines))
    return load_results(path)


def test_a_run_is_read_between_the_checkpoints_where_it_first_reaches_the_gain(tmp_path):
    curve = [(0.02, 0.0, 0.01), (0.08, 0.10, -0.02), (0.04, 0.5, 0.0), (0.1, 0.6, 0.0)]
    results = read(tmp_path, run("rl", 1e-4, 1, curve))
    ((setting, found),) = at.crossings(results, 0.05).items()
    assert setting == ("0.0001",)
    share = (0.05 - 0.02) / (0.08 - 0.02)
    crossing = found[1]
    assert crossing.values["forgetting"] == pytest.approx(0.10 * share)
    assert crossing.values[RULE] == pytest.approx(0.01 - 0.03 * share)
    for name, value in crossing.values.items():  # outcomes say the same
        assert np.mean(crossing.questions[name]) == pytest.approx(value, abs=1e-12)
    assert at.crossings(results, 0.11) == {("0.0001",): {}}


def test_before_the_first_checkpoint_there_is_the_base(tmp_path):
    lines = run("rl", 1e-4, 1, [(0.1, 0.2, 0.0)])
    for kept in (lines, lines[1:]):  # with and without a line of the base
        found = at.crossings(read(tmp_path, kept), 0.05)[("0.0001",)][1]
        assert found.values["forgetting"] == pytest.approx(0.1)
    assert not found.questions


def frontier(tmp_path, *, kinds=("selection", "reported", "reported", "reported")):
    """On base 0 rate 1 forgets least at 6 points; on the others 2 does. RL has one rate."""
    runs = []
    for seed, kind in enumerate(kinds):
        slow, fast = (0.10, 0.30) if seed == 0 else (0.30 + 0.01 * seed, 0.10)
        runs += [
            run("sft", 1.0, seed, [(0.12, slow, -0.04)], kind=kind),
            run("sft", 2.0, seed, [(0.12, fast, 0.0)], kind=kind),
            run("sft", 3.0, seed, [(0.02, 0.0, 0.0)], kind=kind),  # never gets there
            run("rl", 1.0, seed, [(0.12 if seed < 3 else 0.03, 0.02, 0.02)], kind=kind),
        ]
    return read(tmp_path, *runs)


def test_rates_are_chosen_where_they_are_not_reported(tmp_path):
    by_arm = {entry.arm: entry for entry in at.at_gain(frontier(tmp_path), 0.06)}
    sft, rl = by_arm["sft"], by_arm["rl"]
    assert sft.seeds == (1, 2, 3)
    assert sft.settings == (("1",),) * 3
    values = [0.155, 0.16, 0.165]
    assert sft.mean("forgetting").estimate == pytest.approx(np.mean(values))
    assert sft.mean("forgetting", hindsight=True).estimate == pytest.approx(0.05)
    assert sft.mean(RULE).estimate == pytest.approx(-0.02)
    assert (rl.reached, rl.mean("forgetting").n) == (2, 2)  # not from base 3


def test_what_no_rate_reaches_on_the_base_for_selection_has_the_rate_of_a_lower_gain(tmp_path):
    runs = [
        run("sft", 1.0, 0, [(0.05, 0.1, 0.0)], kind="selection"),
        run("sft", 2.0, 0, [(0.05, 0.2, 0.0)], kind="selection"),
        run("sft", 1.0, 1, [(0.12, 0.1, 0.0)]),
        run("sft", 2.0, 1, [(0.12, 0.0, 0.0)]),
    ]
    (entry,) = at.at_gain(read(tmp_path, *runs), 0.09)
    assert entry.settings == (("1",),)
    assert entry.mean("forgetting").estimate == pytest.approx(0.075)


def test_without_a_base_for_selection_a_seed_is_chosen_for_by_the_others(tmp_path):
    results = frontier(tmp_path, kinds=("reported",) * 4)
    sft = next(entry for entry in at.at_gain(results, 0.06) if entry.arm == "sft")
    assert sft.seeds == (0, 1, 2, 3)
    lost = {1.0: [0.05, 0.155, 0.16, 0.165], 2.0: [0.15, 0.05, 0.05, 0.05]}
    for seed, setting in enumerate(sft.settings):
        others = [place for place in range(4) if place != seed]
        best = min(lost, key=lambda rate: np.mean([lost[rate][place] for place in others]))
        assert setting == (f"{best:g}",)


def test_contrasts_pair_bases_and_mark_the_primary_one(tmp_path):
    found = at.contrasts(frontier(tmp_path))
    (lead,) = [contrast for contrast in found if contrast.primary]
    assert (lead.arm, lead.reference, lead.gain, lead.quantity) == ("rl", "sft", 0.06, "forgetting")
    assert lead.difference.n == 2  # base 3 has no RL at six points, and is not averaged in
    assert lead.difference.estimate == pytest.approx(0.01 - np.mean([0.155, 0.16]))
    assert len(found) == 3 * 2
    rest = [contrast for contrast in found if not contrast.primary]
    for contrast in rest:
        raw = contrast.difference.p
        assert math.isnan(raw) or contrast.p >= raw


def word(tmp_path, gap, spread, bases=6):
    """RL forgets `gap` more than SFT, and bases differ by `spread`."""
    runs = []
    for seed in range(bases):
        more = gap + spread * (-1) ** seed
        runs += [run("sft", 1.0, seed, [(0.12, 0.2, 0.0)], bits=False)]
        runs += [run("rl", 1.0, seed, [(0.12, 0.2 + more, 0.0)], bits=False)]
    found = at.contrasts(read(tmp_path, *runs))
    return next(contrast.word for contrast in found if contrast.primary)


@pytest.mark.parametrize(
    ("gap", "spread", "expected"),
    [(0.0, 0.01, "equivalent"), (0.15, 0.02, "higher"), (-0.15, 0.02, "lower"),
     (0.05, 0.1, "undecided")],
)  # fmt: skip
def test_words(tmp_path, gap, spread, expected):
    assert word(tmp_path, gap, spread) == expected


def test_what_is_swept(tmp_path):
    assert at.swept(frontier(tmp_path))
    assert not at.swept(read(tmp_path, run("rl", 1.0, 0, [(0.1, 0.0, 0.0)])))


def test_other_hyperparameters_are_settings_too(tmp_path):
    knobs = {"learning_rate": 1.0, "base_kind": "reported"}
    runs = [
        run("rl", 1.0, seed, [(0.12, lost, 0.0)], run=f"r{seed}{beta}",
            hyperparameters={**knobs, "beta": beta, "none": None})
        for seed in (0, 1) for beta, lost in ((0.1, 0.3), (0.2, 0.1))
    ]  # fmt: skip
    other = run("sft", 1.0, 0, [(0.1, 0.0, 0.0)], hyperparameters={**knobs, "none": 2.0})
    entry, _ = at.at_gain(read(tmp_path, *runs, other), 0.06)
    assert entry.settings == (("0.2", "1"),) * 2


def verdict_of(results):
    return next(v for v in verdicts(results, resamples=20) if v.key == "rl_less_at_gain")


def test_the_verdict_is_the_primary_contrast(tmp_path):
    results = frontier(tmp_path)
    (lead,) = [contrast for contrast in at.contrasts(results) if contrast.primary]
    got = verdict_of(results)
    assert got.ours.estimate == pytest.approx(-lead.difference.estimate)
    assert (got.n_seeds, got.word) == (2, "holds" if got.ours.low > 0 else "undecided")
    assert "on 2 of 3 bases or seeds" in got.sentence
    assert "at 3 (3)" in got.sentence  # at the lower gain RL gets there from all three


def test_the_verdict_takes_a_lower_gain_where_the_primary_one_is_not_reached(tmp_path):
    runs = [
        run(arm, rate, seed, [(0.04, lost, 0.0)])
        for seed in range(3)
        for arm, rate, lost in (("sft", 1.0, 0.2), ("sft", 2.0, 0.3), ("rl", 1.0, 0.0))
    ]
    got = verdict_of(read(tmp_path, *runs))
    assert "At a gain of 3 points" in got.sentence
    assert (got.word, got.ours.estimate) == ("holds", pytest.approx(0.15))
    nothing = [
        run(arm, rate, 0, [(0.01, 0.0, 0.0)]) for arm in ("sft", "rl") for rate in (1.0, 2.0)
    ]
    assert verdict_of(read(tmp_path, *nothing)).sentence.startswith("No number: no gain of 3")


def test_without_a_sweep_there_is_no_such_verdict(tmp_path):
    runs = [run(arm, 1.0, seed, [(0.1, 0.0, 0.0)]) for arm in ("sft", "rl") for seed in (0, 1)]
    keys = {verdict.key for verdict in verdicts(read(tmp_path, *runs), resamples=20)}
    assert "rl_less" in keys
    assert "rl_less_at_gain" not in keys


def test_the_report_shows_rates_reached_and_who_falls_short(tmp_path):
    files = make_report(frontier(tmp_path), resamples=20)
    page = files["report.html"].decode()
    assert "Who forgets less at the same gain" in page
    assert "2 of 3 †" in page
    assert "figures/gain.png" in files
    assert page.index("same gain, each at its own") < page.index("Does KL predict forgetting")
