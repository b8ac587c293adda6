"""The report's chapters on generalization, for results that were tested under another rule.

They take all variants of the main base strength; what is about the methods themselves uses
`main_variant`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rlrazor.analysis import shift_curves, shift_figures, shift_tables
from rlrazor.analysis.law import quadratic_law
from rlrazor.analysis.results import MAIN, Results, main_variant, methods, variants
from rlrazor.analysis.sections import (
    Absent,
    Part,
    Section,
    attempt,
    picture,
    support,
)
from rlrazor.analysis.shift import early_stop, shifts, turn_budgets, variant_rows
from rlrazor.analysis.shift_figures import RULES
from rlrazor.analysis.shift_series import Curve, ood_as_prior, pairs, pass_curves, paths
from rlrazor.analysis.tables import Table

STARTS = ("from_sft", "from_overfit", "fixed", "paper")
PROMPTS = ("diverse", "terse")
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
CHANGES = "Change of success since the base, with 95 % intervals over seeds. "


def shift_sections(results: Results, resamples: int) -> list[Section]:
    """The chapters, without those whose every piece these results lack."""
    chapters = [
        rule_section(results),
        axes_section(results, resamples),
        turns_section(results),
        prompts_section(results),
        tries_section(results),
        flops_section(results),
        recognition_section(results),
        verifier_section(results),
    ]
    return [c for c in chapters if not all(isinstance(part, Absent) for part in c.parts)]


def rule_section(results: Results) -> Section:
    """The base, every method and the best early SFT checkpoint, under both rules."""
    main = main_variant(results)
    early = early_stop(main)
    entries = shifts(main)
    start = _base_level(main)
    return Section(
        "shift",
        "Does it generalize to a rule that training never showed?",
        (
            "Every method starts from the same base and spends the same FLOPs on one reading of "
            "the cards; the other reading is only in the test's prompt. Three comparisons, from "
            "easy to hard: with SFT's end, with the starting point, with SFT stopped early.",
        ),
        (
            picture(
                "shift",
                lambda width, _: shift_figures.shift_figure(entries, early, width=width),
                f"{CHANGES}{start}{support(main)}",
            ),
            attempt(lambda: _rows(shift_tables.shift_table(entries, early))),
            *_variants(
                results, ("reverse",), "shift_reverse", "Trained and tested the other way round."
            ),
            *_variants(
                results,
                STARTS,
                "shift_starts",
                "Other starting points, data and rewards: RL from an early or an over-fitted SFT "
                "checkpoint, SFT on a small fixed set, the paper's graded reward.",
            ),
        ),
    )


def axes_section(results: Results, resamples: int) -> Section:
    """Forgetting and generalization against the one KL."""
    main = main_variant(results)
    laws = [
        attempt(lambda: quadratic_law(main, resamples=resamples)),
        attempt(lambda: quadratic_law(ood_as_prior(main), resamples=resamples)),
    ]
    known = [None if isinstance(law, Absent) else law for law in laws]
    return Section(
        "axes",
        "Both axes in one picture",
        (
            "If one distance governs both, a method that stays close to the base keeps its old "
            "tasks and its grasp of instructions together. The lower curve is fitted like the "
            "forgetting law, with the change under the other rule in forgetting's place.",
        ),
        (
            picture(
                "axes",
                lambda width, limit: shift_curves.axes_figure(
                    results, *known, width=width, limit=limit
                ),
                "Every checkpoint of every run: forgetting above, change of success under the "
                "other rule below. Lines: quadratics in KL of the methods themselves; small dots "
                f"are variants and not in the fit. {support(results)}",
            ),
        ),
    )


def turns_section(results: Results) -> Section:
    budgets = turn_budgets(results)
    reason = "Not available: no method was trained with several turns."
    return Section(
        "turns",
        "Do more turns of verification help?",
        (
            "With several turns the verifier says what was wrong and the model tries again. All "
            "budgets spend the same number of generations, so more turns mean fewer hands. The "
            "first answer shows what training taught; within its turns, what retries add.",
        ),
        (
            picture(
                "turns",
                lambda width, _: shift_figures.turns_figure(budgets, width=width),
                f"{CHANGES}Diamonds: the paper's gains on GeneralPoints in text. "
                f"{support(results)}",
            ),
            shift_tables.turns_table(budgets) if budgets else Absent(reason),
        ),
    )


def prompts_section(results: Results) -> Section:
    """Is it a failure of skill or of listening?"""
    kept = results.select(np.isin(variants(results), (MAIN, *PROMPTS)))
    judged = pairs(kept, "ood/fake_accuracy", "ood/accuracy")
    reason = "Not available: no answer was judged by the rule of training too."
    caption = (
        "The prompt states the other rule; the same answers judged by it and by the rule of "
        "training. High by the rule of training: the model does not listen. "
    )
    return Section(
        "prompts",
        "Is it a lack of skill, or does it not listen?",
        (
            "SFT sees one instruction and may stop reading it. Two remedies: several wordings and "
            "rules in training (diverse), and the reading steps before the formula, which the "
            "“formula only” variants leave out.",
        ),
        (
            *_variants(results, PROMPTS, "prompts", "Plain, diverse and formula-only training."),
            picture(
                "instruction",
                lambda width, _: shift_figures.instruction_figure(judged, width=width),
                f"{caption}{support(kept)}",
            ),
            shift_tables.pairs_table(
                judged,
                f"{caption}At the last checkpoint, percent [95 %].",
                "By the rule of training",
                "By the rule it was told",
                folded=True,
            )
            if judged
            else Absent(reason),
        ),
    )


def tries_section(results: Results) -> Section:
    main = main_variant(results)
    curves = {task: pass_curves(main, task) for task in RULES}
    return Section(
        "tries",
        "New ability, or sharpening?",
        (
            "If RL only moves weight to answers that the base already finds, the base catches up "
            "when both may try often; new ability stays ahead at every k.",
        ),
        (
            picture(
                "tries",
                lambda width, _: shift_curves.tries_figure(curves, width=width),
                "Solved within k tries (unbiased pass@k), mean over seeds with 95 % bands. "
                f"Dashed: the base. {support(main)}",
            ),
            *(
                shift_tables.tries_table(found, RULES[task])
                for task, found in curves.items()
                if found
            ),
        ),
    )


def flops_section(results: Results) -> Section:
    main = main_variant(results)
    power = _power(main)
    along = {task: paths(main, "flops", f"{task}/accuracy") for task in RULES}
    curves = {task: _scaled(found, 10.0**-power) for task, found in along.items()}
    label = f"training FLOPs, 10{str(power).translate(SUPERSCRIPTS)}"
    return Section(
        "flops",
        "What does success cost?",
        (
            "The paper's Figure 5: success along training against FLOPs by its formula, which "
            "counts RL's sampling.",
        ),
        (
            picture(
                "flops",
                lambda width, _: shift_curves.paths_figure(curves, label, width=width),
                "Success at the first answer, mean over seeds with 95 % bands. Grey: the methods "
                f"of the other panels. {support(main)}",
            ),
        ),
    )


def recognition_section(results: Results) -> Section:
    main = main_variant(results)
    along = {task: paths(main, f"{task}/cards_read", f"{task}/accuracy") for task in RULES}
    curves = {task: _scaled(found, 100) for task, found in along.items()}
    return Section(
        "recognition",
        "Do reading and solving move together?",
        (
            "The paper's Figure 8: with images, RL raised both the recognition of cards and "
            "success, and SFT lowered both. In text, reading is copying.",
        ),
        (
            picture(
                "recognition",
                lambda width, _: shift_curves.paths_figure(
                    curves, "cards read right, %", bands=False, width=width
                ),
                "One mark a checkpoint, joined along training; mean over seeds, with the 95 % "
                "interval of success at the last. Grey: the methods of the other panels. "
                f"{support(main)}",
            ),
        ),
    )


def verifier_section(results: Results) -> Section:
    found = [pairs(results, f"{t}/released_accuracy", f"{t}/accuracy") for t in RULES]
    kept = results.select(np.isin(variants(results), (MAIN, "released")))
    shown = [[pair for pair in some if pair.arm in kept.arms] for some in found]
    return Section(
        "verifier",
        "Does the released verifier change the answer?",
        (
            "The released code judges in floating point and refuses some right answers, such as "
            "8/(3-8/3). The same answers judged by both.",
        ),
        (
            picture(
                "verifier",
                lambda width, _: shift_figures.difference_figure(
                    shown, "released verifier minus exact one, points", width=width
                ),
                "Success by the released verifier minus success by the exact one, last "
                "checkpoints, with 95 % intervals over seeds; every arm is in the tables. "
                f"{support(kept)}",
            ),
            *(
                shift_tables.pairs_table(
                    some,
                    f"Both verifiers under the {rule}, percent [95 %].",
                    "Released",
                    "Exact",
                    folded=True,
                )
                for some, rule in zip(found, RULES.values(), strict=True)
                if some
            ),
            *_variants(
                results,
                ("released",),
                "verifier_trained",
                "Trained on the released verifier's rewards, beside the exact one's.",
            ),
        ),
    )


def untested_text(absent: Mapping[str, str]) -> str:
    """The claims left out for want of methods, in one sentence."""
    listed = "; ".join(f"{key.replace('_', ' ')} (needs {arms})" for key, arms in absent.items())
    return f" Claims left out for want of methods: {listed}." if listed else ""


def _variants(results: Results, kinds: Sequence[str], name: str, what: str) -> tuple[Part, ...]:
    """Picture and table of these variants beside the methods that they vary; () without any."""
    chosen = np.unique(methods(results)[np.isin(variants(results), kinds)]).tolist()
    if not chosen:
        return ()
    rows = variant_rows(results, chosen, (MAIN, *kinds))
    entries = shifts(rows)
    drawn = picture(
        name,
        lambda width, _: shift_figures.shift_figure(entries, width=width),
        f"{what} {CHANGES}{support(rows)}",
    )
    return drawn, attempt(lambda: _rows(shift_tables.shift_table(entries)))


def _rows(table: Table) -> Table:
    if not table.rows:
        raise ValueError("no run has a last checkpoint")
    return table


def _base_level(results: Results) -> str:
    if "ood_change" not in results:
        return ""
    rows, _ = results.finite("new/base_accuracy", "ood/base_accuracy")
    if not len(rows):
        return ""
    new, ood = (100 * float(np.mean(rows[f"{task}/base_accuracy"])) for task in RULES)
    return f"The base succeeds in {new:.1f} % by the rule of training, {ood:.1f} % by the other. "


def _scaled(curves: Sequence[Curve], factor: float) -> list[Curve]:
    return [replace(curve, x=factor * curve.x) for curve in curves]


def _power(results: Results) -> int:
    """Of ten, that brings FLOPs to one or two digits."""
    most = np.nanmax(results["flops"], initial=0.0) if "flops" in results else 0.0
    return int(np.floor(np.log10(most))) if most > 0 else 0
