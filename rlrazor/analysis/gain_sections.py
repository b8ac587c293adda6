"""The report's chapter on methods at the same gain, each at its own learning rate."""

from collections.abc import Sequence

from rlrazor.analysis import gain
from rlrazor.analysis.equivalence import Mean
from rlrazor.analysis.figures import number
from rlrazor.analysis.gain import AtGain, Contrast
from rlrazor.analysis.gain_figures import chosen_rates, gain_figure
from rlrazor.analysis.results import Results
from rlrazor.analysis.sections import Absent, Section, attempt, picture, raised, told
from rlrazor.analysis.shift_words import words
from rlrazor.analysis.style import Styles
from rlrazor.analysis.tables import NONE, Table, make_table

UNITS = "Units are seeds, each with a base of its own where lines say so. "


def gain_section(results: Results, styles: Styles) -> Section:
    """Takes all bases: some choose rates and are not reported."""
    entries = attempt(lambda: reported(results))
    pairs = attempt(lambda: gain.contrasts(results))

    def draw(width: float, limit: int):
        del limit  # a mark a method and gain
        return gain_figure(results, raised(entries), styles, width=width)

    return Section(
        "gain",
        "Who forgets less at the same gain, each at its own learning rate?",
        (
            "A method that learns more forgets more, and a larger learning rate does both: so each "
            "run is read where it first reaches a gain under the rule of training, interpolated "
            "between checkpoints, and each method has the rate that forgets least there on bases "
            "that are not reported (without such, on the other seeds).",
        ),
        (
            picture(
                "gain",
                draw,
                "What a gain cost, and what it was worth where training never went. Thin: every "
                "learning rate, as far as all runs of it reach; marks: the chosen rate, with 95 % "
                f"intervals. {UNITS}",
            ),
            told(entries, lambda found: gain_table(found, gain.quantities(results), styles)),
            told(pairs, lambda found: contrast_table(found, styles)),
        ),
    )


def reported(results: Results) -> list[AtGain]:
    """Every arm at every gain, arm by arm."""
    found = [entry for at in gain.GAINS for entry in gain.at_gain(results, at)]
    arms = results.arms
    return sorted(found, key=lambda entry: (arms.index(entry.arm), entry.gain))


def gain_table(entries: Sequence[AtGain], names: Sequence[str], styles: Styles) -> Table:
    """Forgetting and changes at each gain; who does not get there from every base is marked."""
    rows = []
    for entry in entries:
        means = [entry.mean(name) for name in names]
        best = entry.mean(gain.FORGETTING, hindsight=True)
        short = "" if entry.reached == len(entry.seeds) else " †"
        rows.append(
            (
                styles[entry.arm].name,
                f"{100 * entry.gain:g}",
                chosen_rates(entry),
                f"{entry.reached} of {len(entry.seeds)}{short}",
                *(_points(mean) for mean in means),
                _points(best),
            )
        )
    return make_table(
        "At a gain under the rule of training, points, with 95 % intervals (t over units, never "
        f"narrower than the questions allow). {UNITS}† does not get there from every base: a mean "
        "over those that it does from, not to be compared with others' means. Hindsight: each "
        "base at the rate that forgets least on itself.",
        ("Method", "Gain", "Rate", "Reached", *(_head(name) for name in names), "Hindsight"),
        rows,
        first=1,
    )


def contrast_table(pairs: Sequence[Contrast], styles: Styles) -> Table | Absent:
    if not pairs:
        return Absent("Not available: there is no plain SFT to compare with.")
    rows = [
        (
            styles[pair.arm].name + (", primary" if pair.primary else ""),
            f"{100 * pair.gain:g}",
            _head(pair.quantity),
            _points(pair.difference),
            str(pair.difference.n),
            _p(pair.p),
            _p(pair.p_equivalent),
            pair.word,
        )
        for pair in pairs
    ]
    margin = f"{100 * gain.MARGIN:g}"
    return make_table(
        f"Less {styles[pairs[0].reference].name}, paired over the units that both reach, points. "
        f"Equivalent: two one-sided tests put the difference within {margin} points (p within "
        f"{margin}); else lower or higher where p is under 5 %. Holm's correction over all rows "
        "but the primary one.",
        ("Method", "Gain", "Quantity", "Difference [95 %]", "Units", "p", f"p within {margin}",
         "Verdict"),
        rows,
        first=1,
    )  # fmt: skip


def _head(name: str) -> str:
    if name == gain.FORGETTING:
        return "Forgetting"
    return f"Change, {words(name.removesuffix('/change')).other}"


def _points(mean: Mean) -> str:
    return number(mean.interval(), 100, 1) if mean.n else NONE


def _p(p: float) -> str:
    return NONE if p != p else f"{p:.3f}" if p >= 0.001 else "< 0.001"
