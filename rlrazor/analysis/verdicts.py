"""The papers' claims, each judged by the one rule of claims.py.

Eight on forgetting, and for results of a shift that training never showed up to ten on
generalization, eight of them once a shift, and one at the same gain where learning rates were
swept. They are not corrected for each other. All rules but two stood before the first results that
they judged: `rl_less` left out arms with a KL penalty after one study had been seen, against the
paper (experiments/LOG.md), and `rl_less_at_gain` is of an audit of the rule shift.
"""

from collections.abc import Mapping
from dataclasses import replace

from rlrazor.analysis import arm_claims, gain_claims, law_claims, papers, shift_claims
from rlrazor.analysis.claims import FAILS, HOLDS, UNDECIDED, Verdict
from rlrazor.analysis.gain import swept
from rlrazor.analysis.results import Results, main_base, main_variant
from rlrazor.analysis.shift import turn_budgets, variant_rows
from rlrazor.analysis.shift_words import shift_name
from rlrazor.analysis.statistics import RESAMPLES
from rlrazor.lines import DIVERSE, KL

__all__ = ["FAILS", "HOLDS", "UNDECIDED", "Verdict", "left_out", "verdicts"]


def verdicts(results: Results, *, resamples: int = RESAMPLES) -> list[Verdict]:
    """In the order of the papers' arguments, forgetting first, then shift by shift.

    All but advantage_norm use the base strength that most runs start from. Some claims are left
    out: see `left_out`.
    """
    main = main_base(results)
    plain = main_variant(main)
    rl, sft = plain.rl, plain.sft
    every = main_variant(results)  # bases that choose learning rates among them
    found = [
        *([gain_claims.rl_less_at_gain(every)] if results.shifts and swept(every) else []),
        arm_claims.rl_less(plain, rl, sft),
        law_claims.kl_pooled(plain, resamples),
        law_claims.same_curve(plain, rl, resamples),
        law_claims.kl_within(plain, resamples),
        law_claims.kl_best(plain, resamples),
        arm_claims.oracle_less(plain, rl),
        arm_claims.on_policy(plain, sft),
        arm_claims.advantage_norm(main_variant(results), sft),
    ]
    absent = left_out(main)
    for i, place in enumerate(results.shifts):
        once = [] if i else [
            shift_claims.rl_sharpens(main, rl),
            shift_claims.rl_forgets_less_at_end(main, rl, sft),
        ]  # fmt: skip
        found += [
            shift_claims.rl_gains(main, place, rl),
            shift_claims.sft_loses(main, place, sft),
            shift_claims.rl_beats_sft(main, place, rl, sft),
            shift_claims.rl_beats_early_sft(main, place, rl, sft),
            shift_claims.more_turns(main, place),
            shift_claims.diverse_sft(main, place, sft),
            *once,
            shift_claims.kl_shift(main, place, resamples),
            shift_claims.sft_ignores(main, place, sft),
        ]
    return [
        replace(v, paper=papers.reported(results.study, v.key, v.shift))
        for v in found
        if v.key not in absent and v.id not in absent
    ]


def left_out(results: Results) -> Mapping[str, str]:
    """Claim, by its key or its id -> what it needs and these results lack.

    Measurements in any results; methods where a shift was tested, since a study of the forgetting
    law says of each claim on methods that it has no number.
    """
    return (_untrained(results) if results.shifts else {}) | _unmeasured(results)


def _unmeasured(results: Results) -> dict[str, str]:
    laws = ("kl_pooled", "same_curve", "kl_within", "kl_best")
    matched = (gain_claims.KEY, "rl_less", "oracle_less", "on_policy", "advantage_norm")
    needs = {
        "gain": ("a test of the new task", (*matched, *laws)),
        KL: ("KL on the new task", (*laws, "kl_shift")),
        "forgetting": ("tests of prior tasks", (*matched, *laws, "rl_forgets_less_at_end")),
    }
    out: dict[str, str] = {}
    for column, (what, claims) in needs.items():
        out |= dict.fromkeys(claims, what) if not results.has(column) else {}
    if results.shifts and not any(name.startswith("new/pass_at_") for name in results.columns):
        out["rl_sharpens"] = "several tries a question, new/pass_at_<k>"
    return out


def _untrained(results: Results) -> dict[str, str]:
    plain = main_variant(results)
    rl, sft, corners = plain.rl, plain.sft, arm_claims.two_by_two(plain, plain.sft)
    without, normalised = arm_claims.norm_pair(plain)
    family = {"RL": rl, "plain SFT": sft}
    needs: dict[str, Mapping[str, object]] = {
        "oracle_less": {"the oracle": plain.cast("kl_minimal"), "RL": rl},
        "on_policy": corners,
        "advantage_norm": {
            "RL without normalised advantages": without,
            "RL with them": normalised,
            "plain SFT": sft,
        },
        "rl_gains": {"RL": rl},
        "rl_sharpens": {"RL": rl},
        "sft_loses": {"plain SFT": sft},
        "sft_ignores": {"plain SFT": sft},
        **dict.fromkeys(
            ("rl_less", "rl_beats_sft", "rl_beats_early_sft", "rl_forgets_less_at_end"), family
        ),
    }
    lacking = {key: [what for what, arms in by.items() if not arms] for key, by in needs.items()}
    out = {key: ", ".join(names) for key, names in lacking.items() if names}
    if not any(turn_budgets(results, place) for place in results.shifts[:1]):
        out["more_turns"] = "RL with several turns"
    if not len(variant_rows(results, results.of_arms(*sft)["method"].tolist(), (DIVERSE,))):
        out["diverse_sft"] = "SFT on diverse prompts"
    for place in results.shifts:
        if "sft_ignores" not in out and f"{place}/fake_accuracy" not in results:
            judged = f"{place}/fake_accuracy, answers judged as in training"
            out[f"sft_ignores/{shift_name(place)}"] = judged
    return out
