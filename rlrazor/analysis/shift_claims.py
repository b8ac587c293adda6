"""The claims about generalization, as verdicts: a difference paired over seeds, against 0.

RL is the mean over the RL methods present, SFT the plain one; both at their last checkpoints.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from rlrazor.analysis.arm_claims import points
from rlrazor.analysis.claims import HOLDS, UNDECIDED, Verdict, judge, no_number
from rlrazor.analysis.law import quadratic_law
from rlrazor.analysis.law_claims import LAW_R2
from rlrazor.analysis.predictors import no_law_reason
from rlrazor.analysis.results import KL, MAIN, Results, main_variant
from rlrazor.analysis.shift import by_seed, early_stop, final_by_seed, turn_budgets, variant_rows
from rlrazor.analysis.shift_series import ood_as_prior, pass_ks
from rlrazor.analysis.statistics import LEVEL, adjust, compare_with_zero

MATCHED = 1.25  # final FLOPs further apart than this are not matched compute
OOD = "under the rule that training never showed"


def rl_gains(results: Results, rl: Sequence[str]) -> Verdict:
    """Undecided also where methods decide both ways."""
    main = main_variant(results)
    each = {arm: compare_with_zero(final_by_seed(main, [arm], "ood_change")) for arm in rl}
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
        ("rl_gains", f"RL beats its own starting point {OOD}."),
        "11.5 % to 15.0 % (GeneralPoints in text; 27 and 35 of 234 episodes, p = 0.28)",
        "RL's change of success since the base, other rule, against 0",
        main.of_arms(*rl),
        final_by_seed(main, rl, "ood_change"),
        lambda gap: f"RL changes success by {gap}.{text}",
        spoilt=bool(up and down),
    )


def sft_loses(results: Results, sft: Sequence[str]) -> Verdict:
    main = main_variant(results)
    new = compare_with_zero(final_by_seed(main, sft, "gain"))
    return _gap(
        ("sft_loses", f"SFT ends below its starting point {OOD}."),
        "11.5 % to 3.4 % (GeneralPoints in text)",
        "success lost by SFT since the base, other rule, against 0",
        main.of_arms(*sft),
        -final_by_seed(main, sft, "ood_change"),
        lambda gap: f"SFT loses {gap} and gains {points(new)} under the rule of training.",
    )


def rl_beats_sft(results: Results, rl: Sequence[str], sft: Sequence[str]) -> Verdict:
    """Undecided also where the two spent different amounts of compute."""
    main = main_variant(results)
    spent = [compare_with_zero(final_by_seed(main, a, "flops")).difference for a in (rl, sft)]
    spent = [interval.estimate for interval in spent]
    known = min(spent) > 0  # NaN is not
    unequal = known and max(spent) > MATCHED * min(spent)
    text = f" FLOPs: RL {spent[0]:.2g}, SFT {spent[1]:.2g}." if known else " FLOPs not measured."
    if unequal:
        text += " That is not matched compute."
    return _gap(
        ("rl_beats_sft", f"At equal FLOPs RL is better than SFT {OOD}."),
        "15.0 % against 3.4 % (GeneralPoints in text)",
        "RL's success minus SFT's, other rule, last checkpoints, against 0",
        main.of_arms(*rl, *sft),
        final_by_seed(main, rl, "ood/accuracy") - final_by_seed(main, sft, "ood/accuracy"),
        lambda gap: f"RL is {gap} above SFT.{text}",
        spoilt=unequal,
    )


def rl_beats_early_sft(results: Results, rl: Sequence[str], sft: Sequence[str]) -> Verdict:
    main = main_variant(results)
    early = early_stop(main, sft)
    mine = final_by_seed(main, rl, "ood/accuracy")
    best, held_out = np.full(len(mine), np.nan), np.full(len(mine), np.nan)
    text = ""
    if early is not None:
        at = np.searchsorted(main.seeds, early.seeds)
        best[at], held_out[at] = early.success["ood"], early.held_out
        fair = compare_with_zero(mine - held_out)
        text = (
            f" It is step {early.step}, the best of {early.n_steps} in hindsight, which flatters"
            f" SFT; with the step chosen by the other seeds: {points(fair)}."
        )
    return _gap(
        ("rl_beats_early_sft", f"RL is better than even the best early SFT checkpoint {OOD}."),
        "not compared; elsewhere RL restores but does not beat that peak (arXiv 2509.12235)",
        "RL's success minus that of the best SFT checkpoint, other rule, against 0",
        main.of_arms(*rl, *sft),
        mine - best,
        lambda gap: f"RL is {gap} above the best early SFT checkpoint.{text}",
    )


def more_turns(results: Results, rl: Sequence[str]) -> Verdict:
    """The most turns that were trained with, minus one turn, at the first answer."""
    budgets = turn_budgets(results, rl)
    most = max((b.turns for b in budgets), default=10)
    kinds = (MAIN, f"turns_{most}")
    methods = [b.method for b in budgets if b.turns == most]
    one, many = (_final(results, methods, kind, "ood_change") for kind in kinds)
    gains = {
        method: [f"{b.turns}: {b.first['ood'].limits(scale=100, digits=1)}" for b in mine]
        for method, mine in groupby(budgets, lambda b: b.method)
    }
    each = "; ".join(f"{method} {', '.join(gained)}" for method, gained in gains.items())
    return _gap(
        ("more_turns", "Training with more verification turns generalizes better."),
        "gains of 0.48, 2.15, 2.99 and 5.99 points with 1, 3, 5 and 10 turns",
        f"change of success, other rule, of {most} turns minus one turn, against 0",
        variant_rows(results, methods, kinds),
        many - one,
        lambda gap: (
            f"{most} turns add {gap} at the first answer, at matched generations."
            f" Points gained by turns: {each}."
        ),
    )


def diverse_sft(results: Results, sft: Sequence[str]) -> Verdict:
    kinds = (MAIN, "diverse")
    methods = [m for m in sft if np.isfinite(_final(results, [m], kinds[1], "ood_change")).any()]
    plain, diverse = (_final(results, methods, kind, "ood/accuracy") for kind in kinds)
    kept = compare_with_zero(_final(results, methods, kinds[1], "ood_change"))
    return _gap(
        ("diverse_sft", "Diverse prompts and rules mend SFT's generalization."),
        "not tried; elsewhere 0.23 to 0.71 on one such rule (arXiv 2510.00237)",
        "success of SFT on diverse prompts minus plain SFT's, other rule, against 0",
        variant_rows(results, methods, kinds),
        diverse - plain,
        lambda gap: f"Diversity adds {gap}; since the base such SFT changes by {points(kept)}.",
    )


def rl_sharpens(results: Results, rl: Sequence[str]) -> Verdict:
    """Holds only where RL is also better at the first try; under the rule of training."""
    main = main_variant(results)
    k = max(pass_ks(main, "new"), default=64)

    def gains(task: str, tries: int) -> np.ndarray:
        after = final_by_seed(main, rl, f"{task}/pass_at_{tries}")
        return after - final_by_seed(main, rl, f"{task}/base_pass_at_{tries}")

    once, ood = compare_with_zero(gains("new", 1)), compare_with_zero(gains("ood", k))
    better = once.difference.side(0.0) > 0
    return _gap(
        ("rl_sharpens", f"RL sharpens what the base could do: no better within {k} tries."),
        "not measured; elsewhere the base overtakes RL at large k (arXiv 2504.13837)",
        f"pass@{k} of the base minus RL's, rule of training, against 0",
        main.of_arms(*rl),
        -gains("new", k),
        lambda gap: (
            f"pass@1 rises by {points(once)}, while at pass@{k} the base is {gap} ahead;"
            f" under the other rule pass@{k} changes by {points(ood)}."
            + ("" if better else " RL is not better at the first try.")
        ),
        spoilt_if=lambda word: word == HOLDS and not better,
    )


def rl_forgets_less_at_end(results: Results, rl: Sequence[str], sft: Sequence[str]) -> Verdict:
    main = main_variant(results)
    return _gap(
        ("rl_forgets_less_at_end", "After the same FLOPs RL has forgotten less than SFT."),
        "RL keeps more of the prior tasks (arXiv 2509.04259)",
        "forgetting of SFT minus RL's, last checkpoints, against 0",
        main.of_arms(*rl, *sft),
        final_by_seed(main, sft, "forgetting") - final_by_seed(main, rl, "forgetting"),
        lambda gap: f"SFT has forgotten {gap} more, whatever each has learnt.",
    )


def kl_ood(results: Results, resamples: int) -> Verdict:
    """The forgetting law with the change under the other rule in forgetting's place."""
    claim = f"KL(base||policy) predicts the change {OOD}."
    paper = "not measured; for forgetting R2 = 0.96"
    quantity = f"pooled R2 of the change, other rule, against {LAW_R2}"
    main = main_variant(results)
    reason = "not measured" if "ood_change" not in main else no_law_reason(ood_as_prior(main), KL)
    if reason:
        reason = reason.replace("forgetting", "the change")
        return no_number("kl_ood", claim, paper, quantity, main, reason)
    law = quadratic_law(ood_as_prior(main), resamples=resamples)
    text = (
        f"The quadratic in KL explains R2 = {law.r2.limits()} of it in {law.n_rows} checkpoints;"
        f" it errs by {100 * law.mean_absolute_error:.1f} points on average."
        + (f" {law.n_excluded} non-finite rows are left out." if law.n_excluded else "")
    )
    word = judge(law.r2, LAW_R2)
    return Verdict("kl_ood", claim, paper, law.r2, quantity, law.n_runs, law.n_seeds, word, text)


def sft_ignores(results: Results, sft: Sequence[str]) -> Verdict:
    main = main_variant(results)
    fake, right = (final_by_seed(main, sft, f"ood/{n}accuracy") for n in ("fake_", ""))
    first, second = (
        compare_with_zero(values).difference.limits(scale=100, digits=1, unit=" %")
        for values in (fake, right)
    )
    return _gap(
        ("sft_ignores", "SFT goes by the rule it trained on, whatever the prompt says."),
        "not measured; elsewhere 0.93 and 0.68 by the old rule, near 0 by the new"
        " (arXiv 2510.00237)",
        "SFT's success by the old rule minus that by the rule of the prompt, against 0",
        main.of_arms(*sft),
        fake - right,
        lambda gap: (
            f"Told the other rule, SFT succeeds in {first} by the old rule and in"
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
    name: tuple[str, str],  # key, claim
    paper: str,
    quantity: str,
    rows: Results,  # that the number rests on
    differences: np.ndarray,  # f64[S], NaN where a seed has none
    tell: Callable[[str], str],  # the difference in words -> sentence
    *,
    spoilt: bool = False,  # an extra condition fails: undecided
    spoilt_if: Callable[[str], bool] = lambda word: False,
) -> Verdict:
    key, claim = name
    gap = compare_with_zero(differences).difference
    if not np.isfinite(gap.estimate):
        reason = "no last checkpoints of these methods with such a measurement"
        return no_number(key, claim, paper, quantity, rows, reason)
    word = judge(gap, 0.0)
    if spoilt or spoilt_if(word):
        word = UNDECIDED
    runs = rows.final().n_runs
    return Verdict(key, claim, paper, gap, quantity, runs, gap.n, word, tell(points(gap)))
