"""The claims about generalization, as verdicts: a difference paired over seeds, against 0.

RL is the mean over the plain RL methods present, SFT that over plain imitation; both at their last
checkpoints. `place` is the shift that a claim is about, as in "shift/rule".
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from rlrazor.analysis.arm_claims import points
from rlrazor.analysis.claims import HOLDS, UNDECIDED, Verdict, judge, no_number
from rlrazor.analysis.law import quadratic_law
from rlrazor.analysis.law_claims import LAW_R2
from rlrazor.analysis.predictors import no_law_reason
from rlrazor.analysis.results import Results, main_variant
from rlrazor.analysis.shift import (
    by_seed,
    change,
    early_stop,
    final_by_seed,
    turn_budgets,
    variant_rows,
)
from rlrazor.analysis.shift_series import pass_ks, shift_as_prior
from rlrazor.analysis.shift_words import shift_name, titles, words
from rlrazor.analysis.statistics import LEVEL, adjust, compare_with_zero
from rlrazor.lines import DIVERSE, KL, MAIN, TURNS

MATCHED = 1.25  # final FLOPs further apart than this are not matched compute


def rl_gains(results: Results, place: str, rl: Sequence[str]) -> Verdict:
    """Undecided also where methods decide both ways."""
    main, say = main_variant(results), words(place)
    each = {arm: compare_with_zero(final_by_seed(main, [arm], change(place))) for arm in rl}
    each = {arm: c for arm, c in each.items() if np.isfinite(c.difference.estimate)}
    decided = adjust([c.p for c in each.values()]) < 1 - LEVEL
    signs = np.sign([c.difference.estimate for c in each.values()]) * decided
    up, down = int(np.sum(signs > 0)), int(np.sum(signs < 0))
    text = (
        f" Of {len(each)} RL methods {up} gain and {down} lose, with 5 % false discoveries:"
        f" {', '.join(f'{arm} {points(c)}' for arm, c in each.items())}."
    )
    if up and down:
        text += " It depends on the method."
    return _gap(
        ("rl_gains", f"RL beats its own starting point {say.untrained}.", place),
        f"RL's change of success since the base, {say.other}, against 0",
        main.of_arms(*rl),
        final_by_seed(main, rl, change(place)),
        lambda gap: f"RL changes success by {gap}.{text}",
        spoilt=bool(up and down),
    )


def sft_loses(results: Results, place: str, sft: Sequence[str]) -> Verdict:
    main, say = main_variant(results), words(place)
    new = compare_with_zero(final_by_seed(main, sft, "gain"))
    return _gap(
        ("sft_loses", f"SFT ends below its starting point {say.untrained}.", place),
        f"success lost by SFT since the base, {say.other}, against 0",
        main.of_arms(*sft),
        -final_by_seed(main, sft, change(place)),
        lambda gap: f"SFT loses {gap} and gains {points(new)} under the {say.trained}.",
    )


def rl_beats_sft(results: Results, place: str, rl: Sequence[str], sft: Sequence[str]) -> Verdict:
    """Undecided also where the two spent different amounts of compute."""
    main, say = main_variant(results), words(place)
    text, unequal = compute(main, rl, sft)
    return _gap(
        ("rl_beats_sft", f"At equal FLOPs RL is better than SFT {say.untrained}.", place),
        f"RL's success minus SFT's, {say.other}, last checkpoints, against 0",
        main.of_arms(*rl, *sft),
        final_by_seed(main, rl, f"{place}/accuracy")
        - final_by_seed(main, sft, f"{place}/accuracy"),
        lambda gap: f"RL is {gap} above SFT.{text}",
        spoilt=unequal,
    )


def compute(main: Results, rl: Sequence[str], sft: Sequence[str]) -> tuple[str, bool]:
    """(what each spent, whether that is known not to be matched compute)."""
    spent = [compare_with_zero(final_by_seed(main, a, "flops_total")).difference for a in (rl, sft)]
    spent = [interval.estimate for interval in spent]
    if not min(spent) > 0:  # NaN is not
        return " FLOPs not measured.", False
    unequal = max(spent) > MATCHED * min(spent)
    text = f" FLOPs, teacher and start included: RL {spent[0]:.2g}, SFT {spent[1]:.2g}."
    return text + " That is not matched compute." * unequal, unequal


def rl_beats_early_sft(
    results: Results, place: str, rl: Sequence[str], sft: Sequence[str]
) -> Verdict:
    main, say = main_variant(results), words(place)
    early = early_stop(main, place, sft)
    mine = final_by_seed(main, rl, f"{place}/accuracy")
    best, held_out = np.full(len(mine), np.nan), np.full(len(mine), np.nan)
    text = ""
    if early is not None:
        at = np.searchsorted(main.seeds, early.seeds)
        best[at], held_out[at] = early.success[place], early.held_out
        fair = compare_with_zero(mine - held_out)
        text = (
            f" It is step {early.step}, the best of {early.n_steps} in hindsight, which flatters"
            f" SFT; with the step chosen by the other seeds: {points(fair)}."
        )
    claim = f"RL is better than even the best early SFT checkpoint {say.untrained}."
    return _gap(
        ("rl_beats_early_sft", claim, place),
        f"RL's success minus that of the best SFT checkpoint, {say.other}, against 0",
        main.of_arms(*rl, *sft),
        mine - best,
        lambda gap: f"RL is {gap} above the best early SFT checkpoint.{text}",
    )


def more_turns(results: Results, place: str) -> Verdict:
    """The most turns that were trained with, minus one turn, at the first answer."""
    budgets, say = turn_budgets(results, place), words(place)
    most = max((b.turns for b in budgets), default=10)
    kinds = (MAIN, f"{TURNS}{most}")
    methods = [b.method for b in budgets if b.turns == most]
    one, many = (_final(results, methods, kind, change(place)) for kind in kinds)
    gains = {
        method: [f"{b.turns}: {b.first[place].limits(scale=100, digits=1)}" for b in mine]
        for method, mine in groupby(budgets, lambda b: b.method)
    }
    each = "; ".join(f"{method} {', '.join(gained)}" for method, gained in gains.items())
    return _gap(
        ("more_turns", "Training with more verification turns generalizes better.", place),
        f"change of success, {say.other}, of {most} turns minus one turn, against 0",
        variant_rows(results, methods, kinds),
        many - one,
        lambda gap: (
            f"{most} turns add {gap} at the first answer, at matched generations."
            f" Points gained by turns: {each}."
        ),
    )


def diverse_sft(results: Results, place: str, sft: Sequence[str]) -> Verdict:
    kinds, say = (MAIN, DIVERSE), words(place)
    methods = dict.fromkeys(results.of_arms(*sft)["method"].tolist())
    tested = {m: np.isfinite(_final(results, [m], kinds[1], change(place))) for m in methods}
    methods = [method for method, seeds in tested.items() if seeds.any()]
    plain, diverse = (_final(results, methods, kind, f"{place}/accuracy") for kind in kinds)
    kept = compare_with_zero(_final(results, methods, kinds[1], change(place)))
    return _gap(
        ("diverse_sft", "Diverse prompts and rules mend SFT's generalization.", place),
        f"success of SFT on diverse prompts minus plain SFT's, {say.other}, against 0",
        variant_rows(results, methods, kinds),
        diverse - plain,
        lambda gap: f"Diversity adds {gap}; since the base such SFT changes by {points(kept)}.",
    )


def rl_sharpens(results: Results, rl: Sequence[str]) -> Verdict:
    """Holds only where RL is also better at the first try; under the task of training."""
    main = main_variant(results)
    k = max(pass_ks(main, "new"), default=64)

    def gains(task: str, tries: int) -> np.ndarray:
        after = final_by_seed(main, rl, f"{task}/pass_at_{tries}")
        return after - final_by_seed(main, rl, f"{task}/base_pass_at_{tries}")

    once = compare_with_zero(gains("new", 1))
    better = once.difference.side(0.0) > 0
    told = "; ".join(
        f"under the {words(place).other} pass@{k} changes by"
        f" {points(compare_with_zero(gains(place, k)))}"
        for place in main.shifts
    )
    return _gap(
        ("rl_sharpens", f"RL sharpens what the base could do: no better within {k} tries.", ""),
        f"pass@{k} of the base minus RL's, {titles(main.shifts)['new']}, against 0",
        main.of_arms(*rl),
        -gains("new", k),
        lambda gap: (
            f"pass@1 rises by {points(once)}, while at pass@{k} the base is {gap} ahead; {told}."
            + ("" if better else " RL is not better at the first try.")
        ),
        spoilt_if=lambda word: word == HOLDS and not better,
    )


def rl_forgets_less_at_end(results: Results, rl: Sequence[str], sft: Sequence[str]) -> Verdict:
    """Undecided also where the two spent different amounts of compute."""
    main = main_variant(results)
    text, unequal = compute(main, rl, sft)
    return _gap(
        ("rl_forgets_less_at_end", "After the same FLOPs RL has forgotten less than SFT.", ""),
        "forgetting of SFT minus RL's, last checkpoints, against 0",
        main.of_arms(*rl, *sft),
        final_by_seed(main, sft, "forgetting") - final_by_seed(main, rl, "forgetting"),
        lambda gap: f"SFT has forgotten {gap} more, whatever each has learnt.{text}",
        spoilt=unequal,
    )


def kl_shift(results: Results, place: str, resamples: int) -> Verdict:
    """The forgetting law with the change under a shift in forgetting's place."""
    main, say = main_variant(results), words(place)
    claim = f"KL(base||policy) predicts the change {say.untrained}."
    quantity = f"pooled R2 of the change, {say.other}, against {LAW_R2}"
    reason = "not measured"
    if change(place) in main:
        reason = no_law_reason(shift_as_prior(main, place), KL, "the change")
    if reason:
        return no_number("kl_shift", claim, quantity, main, reason, shift_name(place))
    law = quadratic_law(shift_as_prior(main, place), resamples=resamples)
    text = (
        f"The quadratic in KL explains R2 = {law.r2.limits()} of it in {law.n_rows} checkpoints;"
        f" it errs by {100 * law.mean_absolute_error:.1f} points on average."
        + (f" {law.n_excluded} non-finite rows are left out." if law.n_excluded else "")
    )
    word, runs = judge(law.r2, LAW_R2), law.n_runs
    return Verdict(
        *("kl_shift", claim, law.r2, quantity, runs, law.n_seeds, word, text), shift_name(place)
    )


def sft_ignores(results: Results, place: str, sft: Sequence[str]) -> Verdict:
    main, say = main_variant(results), words(place)
    fake, right = (final_by_seed(main, sft, f"{place}/{n}accuracy") for n in ("fake_", ""))
    first, second = (
        compare_with_zero(values).difference.limits(scale=100, digits=1, unit=" %")
        for values in (fake, right)
    )
    claim = f"SFT goes by the {say.thing} it trained on, whatever the prompt says."
    return _gap(
        ("sft_ignores", claim, place),
        f"SFT's success by the old {say.thing} minus that by the {say.thing} of the prompt,"
        " against 0",
        main.of_arms(*sft),
        fake - right,
        lambda gap: (
            f"Told the {say.other}, SFT succeeds in {first} by the old {say.thing} and in"
            f" {second} by the one it was told: {gap} apart."
        ),
    )


def _final(results: Results, methods: Sequence[str], kind: str, column: str) -> np.ndarray:
    """f64[S] over results.seeds: mean over these methods' last checkpoints of one variant."""
    values = [
        by_seed(variant_rows(results, [m], [kind]).final(), column, results.seeds) for m in methods
    ]
    return np.mean(values, axis=0) if values else np.full(len(results.seeds), np.nan)


def _gap(
    name: tuple[str, str, str],  # key, claim, place of the shift it is about
    quantity: str,
    rows: Results,  # that the number rests on
    differences: np.ndarray,  # f64[S], NaN where a seed has none
    tell: Callable[[str], str],  # the difference in words -> sentence
    *,
    spoilt: bool = False,  # an extra condition fails: undecided
    spoilt_if: Callable[[str], bool] = lambda word: False,
) -> Verdict:
    key, claim, place = name
    gap = compare_with_zero(differences).difference
    if not np.isfinite(gap.estimate):
        reason = "no last checkpoints of these methods with such a measurement"
        return no_number(key, claim, quantity, rows, reason, shift_name(place))
    word = judge(gap, 0.0)
    if spoilt or spoilt_if(word):
        word = UNDECIDED
    runs, text = rows.final().n_runs, tell(points(gap))
    return Verdict(key, claim, gap, quantity, runs, gap.n, word, text, shift_name(place))
