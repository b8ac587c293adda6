"""The report's chapters on generalization, for results of a shift that training never showed.

Four chapters are of one shift and stand once for each; four show all shifts side by side. They take
all variants of the main base strength; what is about the methods themselves uses `main_variant`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlrazor.analysis import papers, shift_curves, shift_figures, shift_tables
from rlrazor.analysis.law import quadratic_law
from rlrazor.analysis.results import Results, main_variant
from rlrazor.analysis.sections import (
    Absent,
    Part,
    Section,
    attempt,
    picture,
    support,
)
from rlrazor.analysis.shift import early_stop, shifts, turn_budgets, variant_rows
from rlrazor.analysis.shift_series import Curve, pairs, pass_curves, paths, shift_as_prior
from rlrazor.analysis.shift_words import shift_name, titles, words
from rlrazor.analysis.style import Styles
from rlrazor.analysis.tables import Table
from rlrazor.lines import DIVERSE, MAIN, RELEASED, REVERSE, TERSE, TURNS

PROMPTS = (DIVERSE, TERSE)
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
CHANGES = "Change of success since the base, with 95 % intervals over seeds. "


def shift_sections(results: Results, styles: Styles, resamples: int) -> list[Section]:
    """The chapters, without those whose every piece these results lack."""
    chapters: list[Section] = []
    for place, ending in zip(results.shifts, _endings(results.shifts), strict=True):
        chapters += [
            shift_section(results, styles, place, ending),
            axes_section(results, styles, place, ending, resamples),
            turns_section(results, styles, place, ending),
            prompts_section(results, styles, place, ending),
        ]
    chapters += [
        tries_section(results, styles),
        flops_section(results, styles),
        recognition_section(results, styles),
        verifier_section(results, styles),
    ]
    return [c for c in chapters if not all(isinstance(part, Absent) for part in c.parts)]


def shift_section(results: Results, styles: Styles, place: str, ending: str) -> Section:
    """The base, every method and the best early SFT checkpoint, trained and shifted."""
    main, say = main_variant(results), words(place)
    early = early_stop(main, place, main.sft)
    entries = shifts(main, place)
    start = _base_level(main, place)
    return Section(
        f"shift{ending}",
        f"Does it generalize {say.untrained}?",
        (
            "Every method starts from the same base; what the test changes, training never "
            "showed. Three comparisons, from easy to hard: with SFT's end, with the starting "
            "point, with SFT stopped early.",
        ),
        (
            picture(
                f"shift{ending}",
                lambda width, _: shift_figures.shift_figure(
                    entries, styles, place, early, width=width
                ),
                f"{CHANGES}{start}{support(main)}",
            ),
            attempt(lambda: _rows(shift_tables.shift_table(entries, styles, place, early))),
            *_variants(
                results,
                styles,
                place,
                (REVERSE,),
                (f"shift_reverse{ending}", "Trained and tested the other way round."),
            ),
            *_variants(
                results,
                styles,
                place,
                [kind for kind in _kinds(results) if _is_start(kind)],
                (
                    f"shift_starts{ending}",
                    "Variants of the methods: other starting points, data and rewards.",
                ),
            ),
        ),
    )


def axes_section(
    results: Results, styles: Styles, place: str, ending: str, resamples: int
) -> Section:
    """Forgetting and generalization against the one KL."""
    main, other = main_variant(results), words(place).other
    laws = [
        attempt(lambda: quadratic_law(main, resamples=resamples)),
        attempt(lambda: quadratic_law(shift_as_prior(main, place), resamples=resamples)),
    ]
    known = [None if isinstance(law, Absent) else law for law in laws]
    return Section(
        f"axes{ending}",
        f"Both axes against KL{f', {other}' if ending else ''}",
        (
            "If one distance governs both, a method that stays close to the base keeps its old "
            "tasks and its grasp of instructions together. The lower curve is fitted like the "
            f"forgetting law, with the change under the {other} in forgetting's place.",
        ),
        (
            picture(
                f"axes{ending}",
                lambda width, limit: shift_curves.axes_figure(
                    results, place, (known[0], known[1]), styles=styles, width=width, limit=limit
                ),
                "Every checkpoint of every run: forgetting above, change of success under the "
                f"{other} below. Lines: quadratics in KL of the methods themselves; small dots "
                f"are variants and not in the fit. {support(results)}",
            ),
        ),
    )


def turns_section(results: Results, styles: Styles, place: str, ending: str) -> Section:
    budgets = turn_budgets(results, place)
    gains = papers.TURN_GAINS.get(results.study, {}) if shift_name(place) == "rule" else {}
    paper = "Diamonds: the paper's gains on GeneralPoints in text. " if gains else ""
    reason = "Not available: no method was trained with several turns."
    return Section(
        f"turns{ending}",
        f"Do more turns of verification help{f', {words(place).other}' if ending else ''}?",
        (
            "With several turns the verifier says what was wrong and the model tries again. All "
            "budgets spend the same number of generations, so more turns mean fewer hands. The "
            "first answer shows what training taught; within its turns, what retries add.",
        ),
        (
            picture(
                f"turns{ending}",
                lambda width, _: shift_figures.turns_figure(
                    budgets, styles, place, gains, width=width
                ),
                f"{CHANGES}{paper}{support(results)}",
            ),
            shift_tables.turns_table(budgets, styles, place) if budgets else Absent(reason),
        ),
    )


def prompts_section(results: Results, styles: Styles, place: str, ending: str) -> Section:
    """Is it a failure of skill or of listening?"""
    kept, thing = results.select(np.isin(results["variant"], (MAIN, *PROMPTS))), words(place).thing
    judged = pairs(kept, f"{place}/fake_accuracy", f"{place}/accuracy")
    reason = f"Not available: no answer was judged by the {thing} of training too."
    caption = (
        f"The prompt states the other {thing}; the same answers judged by it and by the {thing} of "
        f"training. High by the {thing} of training: the model does not listen. "
    )
    return Section(
        f"prompts{ending}",
        "Is it a lack of skill, or does it not listen"
        f"{f', {words(place).other}' if ending else ''}?",
        (
            "SFT sees one instruction and may stop reading it. Two remedies: several wordings and "
            "rules in training (diverse), and the reading steps before the formula, which the "
            "“formula only” variants leave out.",
        ),
        (
            *_variants(
                results,
                styles,
                place,
                PROMPTS,
                (f"prompts{ending}", "Plain, diverse and formula-only training."),
            ),
            picture(
                f"instruction{ending}",
                lambda width, _: shift_figures.instruction_figure(
                    judged, styles, place, width=width
                ),
                f"{caption}{support(kept)}",
            ),
            shift_tables.pairs_table(
                judged,
                styles,
                f"{caption}At the last checkpoint, percent [95 %].",
                (f"By the {thing} of training", f"By the {thing} it was told"),
                folded=True,
            )
            if judged
            else Absent(reason),
        ),
    )


def tries_section(results: Results, styles: Styles) -> Section:
    main, rules = main_variant(results), titles(results.shifts)
    curves = {task: pass_curves(main, task) for task in rules}
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
                lambda width, _: shift_curves.tries_figure(curves, styles, width=width),
                "Solved within k tries (unbiased pass@k), mean over seeds with 95 % bands. "
                f"Dashed: the base. {support(main)}",
            ),
            *(
                shift_tables.tries_table(found, styles, rules[task])
                for task, found in curves.items()
                if found
            ),
        ),
    )


def flops_section(results: Results, styles: Styles) -> Section:
    main = main_variant(results)
    power = _power(main)
    along = {
        task: paths(main, "flops_total", f"{task}/accuracy") for task in titles(results.shifts)
    }
    curves = {task: _scaled(found, 10.0**-power) for task, found in along.items()}
    label = f"training FLOPs, 10{str(power).translate(SUPERSCRIPTS)}"
    return Section(
        "flops",
        "What does success cost?",
        (
            "Success along training against FLOPs, RL's sampling included, and with them what "
            "trained the teacher and the start of a run (SFT Memorizes, RL Generalizes, Figure "
            "5).",
        ),
        (
            picture(
                "flops",
                lambda width, _: shift_curves.paths_figure(curves, styles, label, width=width),
                "Success at the first answer, mean over seeds with 95 % bands. Grey: the methods "
                f"of the other panels. {support(main)}",
            ),
        ),
    )


def recognition_section(results: Results, styles: Styles) -> Section:
    main, tasks = main_variant(results), titles(results.shifts)
    along = {task: paths(main, f"{task}/cards_read", f"{task}/accuracy") for task in tasks}
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
                    curves, styles, "cards read right, %", bands=False, width=width
                ),
                "One mark a checkpoint, joined along training; mean over seeds, with the 95 % "
                "interval of success at the last. Grey: the methods of the other panels. "
                f"{support(main)}",
            ),
        ),
    )


def verifier_section(results: Results, styles: Styles) -> Section:
    rules = titles(results.shifts)
    found = {t: pairs(results, f"{t}/released_accuracy", f"{t}/accuracy") for t in rules}
    kept = results.select(np.isin(results["variant"], (MAIN, RELEASED)))
    shown = {t: [pair for pair in some if pair.arm in kept.arms] for t, some in found.items()}
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
                    shown, styles, "released verifier minus exact one, points", width=width
                ),
                "Success by the released verifier minus success by the exact one, last "
                "checkpoints, with 95 % intervals over seeds; every arm is in the tables. "
                f"{support(kept)}",
            ),
            *(
                shift_tables.pairs_table(
                    some,
                    styles,
                    f"Both verifiers under the {rules[task]}, percent [95 %].",
                    ("Released", "Exact"),
                    folded=True,
                )
                for task, some in found.items()
                if some
            ),
            *_variants(
                results,
                styles,
                results.shifts[0],
                (RELEASED,),
                (
                    "verifier_trained",
                    "Trained on the released verifier's rewards, beside the exact one's.",
                ),
            ),
        ),
    )


def _variants(
    results: Results,
    styles: Styles,
    place: str,
    kinds: Sequence[str],
    picture_of: tuple[str, str],  # its name, what it shows
) -> tuple[Part, ...]:
    """Picture and table of these variants beside the methods that they vary; () without any."""
    name, what = picture_of
    chosen = np.unique(results["method"][np.isin(results["variant"], kinds)]).tolist()
    if not chosen:
        return ()
    rows = variant_rows(results, chosen, (MAIN, *kinds))
    entries = shifts(rows, place)
    drawn = picture(
        name,
        lambda width, _: shift_figures.shift_figure(entries, styles, place, width=width),
        f"{what} {CHANGES}{support(rows)}",
    )
    return drawn, attempt(lambda: _rows(shift_tables.shift_table(entries, styles, place)))


def _kinds(results: Results) -> list[str]:
    return list(dict.fromkeys(results["variant"].tolist()))


def _is_start(kind: str) -> bool:
    return kind not in (MAIN, REVERSE, RELEASED, *PROMPTS) and not kind.startswith(TURNS)


def _endings(places: Sequence[str]) -> list[str]:
    """Of names of chapters and files: none for one shift alone, else short and different."""
    if len(places) == 1:
        return [""]
    taken: list[str] = []
    for place in places:
        word = re.sub(r"[^a-z0-9]+", "_", shift_name(place).lower())[:30].strip("_") or "shift"
        others = (f"{word}_{n}" for n in range(2, len(places) + 1))
        taken.append(next(free for free in (word, *others) if free not in taken))
    return [f"_{word}" for word in taken]


def _rows(table: Table) -> Table:
    if not table.rows:
        raise ValueError("no run has a last checkpoint")
    return table


def _base_level(results: Results, place: str) -> str:
    if f"{place}/change" not in results:
        return ""
    rows, _ = results.finite("new/base_accuracy", f"{place}/base_accuracy")
    if not len(rows):
        return ""
    new, other = (100 * float(np.mean(rows[f"{t}/base_accuracy"])) for t in ("new", place))
    say = words(place)
    return (
        f"The base succeeds in {new:.1f} % under the {say.trained}, {other:.1f} % under the "
        f"{say.other}. "
    )


def _scaled(curves: Sequence[Curve], factor: float) -> list[Curve]:
    return [replace(curve, x=factor * curve.x) for curve in curves]


def _power(results: Results) -> int:
    """Of ten, that brings FLOPs to one or two digits."""
    most = np.nanmax(results["flops_total"], initial=0.0) if "flops_total" in results else 0.0
    return int(np.floor(np.log10(most))) if most > 0 else 0
