"""The paper's claims about which method forgets less, as verdicts.

Comparisons at matched accuracy use `automatic_target` over the arms concerned; an arm that misses
it in some seed is left out and named.
"""

from collections.abc import Callable, Sequence

import numpy as np

from rlrazor.analysis.claims import FAILS, HOLDS, UNDECIDED, Verdict, judge, no_number
from rlrazor.analysis.flips import LESS, MORE, flip_map
from rlrazor.analysis.frontier import Matched, automatic_target, matched, target_list
from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import LEVEL, Comparison, Interval, adjust, paired

SFT = "plain SFT"


def rl_less(results: Results, rl: Sequence[str], sft: Sequence[str]) -> Verdict:
    """Undecided also where the typical runs say the opposite, or where arms decide both ways."""

    def finish(entries, gap, word):
        typical = arm_gap(entries, sft, rl, "typical").difference
        less, more, pairs = pair_counts(entries, rl, sft)
        text = (
            f" Typical runs: {points(typical)}. Of {pairs} pairs of an RL and an SFT arm, RL"
            f" forgets less in {less} and more in {more}, with 5 % false discoveries."
        )
        if typical.side(0.0) * gap.side(0.0) < 0:
            return UNDECIDED, text + " Best and typical runs disagree."
        if less and more:
            return UNDECIDED, text + " It depends on the variant."
        return word, text

    return _matched_claim(
        results,
        "rl_less",
        "On-policy RL forgets less than SFT at the same new-task accuracy.",
        more=("SFT", sft),
        less=("RL", rl),
        finish=finish,
    )


def oracle_less(results: Results, rl: Sequence[str]) -> Verdict:
    """The paper's oracle samples its labels; soft targets are another arm, named beside it."""

    soft_arms = results.cast("kl_minimal_soft")

    def finish(entries, _gap_interval, word):
        if all(entry.arm not in soft_arms for entry in entries):
            return word, ""
        soft = arm_gap(entries, rl, soft_arms)
        return word, f" With soft targets: {points(soft)}."

    return _matched_claim(
        results,
        "oracle_less",
        "SFT on the KL-minimal (oracle) labels forgets even less than RL.",
        more=("RL", rl),
        less=("oracle SFT", results.cast("kl_minimal")),
        also=soft_arms,
        finish=finish,
    )


def on_policy(results: Results, sft: Sequence[str]) -> Verdict:
    """A two by two: on-policy arms against imitation, and two-sided arms against one-sided.

    In the paper GRPO and SimPO are two-sided, 1-0 REINFORCE and SFT learn from right answers alone.

    The claim is saving by on-policy data > |effect of negatives|, that is, for both signs of the
    latter. It holds if both differences are above 0, fails if one is below at 5 % over both.
    """
    claim = "On-policy data, not negative examples, is what keeps forgetting low."
    quantity = "forgetting saved by on-policy data minus |effect of negatives|, against 0"
    corners = two_by_two(results, sft)
    others = [arm for name, arms in corners.items() if name != SFT for arm in arms]
    chosen, entries, target, missing = at_target(results, others, sft, shares=(1.0,))
    have = {entry.arm for entry in entries}
    absent = [name for name, arms in corners.items() if not have & set(arms)]
    if absent:
        reason = f"absent or short of the accuracy to match: {', '.join(absent)}"
        return no_number("on_policy", claim, quantity, chosen, reason)
    rl_both, rl_right, both, plain = (mean_forgetting(entries, arms) for arms in corners.values())
    saved = (plain + both - rl_both - rl_right) / 2
    negatives = (plain + rl_right - rl_both - both) / 2
    seeds = entries[0].base_seeds

    def contrasts(level):
        return [paired(saved, s * negatives, seeds, level).difference for s in (1.0, -1.0)]

    gap = min(contrasts(LEVEL), key=lambda interval: interval.estimate)
    word = UNDECIDED
    if all(interval.side(0.0) > 0 for interval in contrasts(LEVEL)):
        word = HOLDS
    elif any(interval.side(0.0) < 0 for interval in contrasts(1 - (1 - LEVEL) / 2)):
        word = FAILS
    zero = np.zeros(len(seeds))
    text = (
        f"Best runs at new-task accuracy {target:.3f}: on-policy data saves"
        f" {points(paired(saved, zero, seeds))} of forgetting, negative examples"
        f" {points(paired(negatives, zero, seeds))}.{missing}"
    )
    return Verdict("on_policy", claim, gap, quantity, chosen.n_runs, gap.n, word, text)


def advantage_norm(results: Results, sft: Sequence[str]) -> Verdict:
    """Holds if final runs of one variant forget more than SFT and of the other less.

    Does not hold if both are decided and agree. The number is what the word rests on: of the
    variant nearer to undecided, or, where they differ, of their difference.
    """
    claim = "Dividing advantages by their standard deviation changes whether RL forgets less."
    quantity = "excess over the SFT frontier, final runs, of the variant nearer to it, against 0"
    pair = norm_pair(results)
    named = [arm for arm in pair if arm]
    chosen = results.select(np.isin(results["arm"], [*named, *sft]))
    cells = flip_map(chosen, named, sft, axes=("arm",)).cells
    marginal = {str(cell.values[0]): cell for cell in cells}
    absent = [
        what
        for what, arm in zip(("without normalisation", "with it"), pair, strict=True)
        if arm not in marginal
    ]
    if absent:
        reason = f"no final runs of RL {' and '.join(absent)}"
        return no_number("advantage_norm", claim, quantity, chosen, reason)
    plain, std = (marginal[arm] for arm in pair)
    words = {plain.word, std.word}
    word = HOLDS if words == {LESS, MORE} else UNDECIDED
    if words in ({LESS}, {MORE}):
        word = FAILS
    full = flip_map(chosen, pair, sft)
    counts = [sum(cell.word == w for cell in full.cells) for w in (LESS, MORE)]
    text = (
        f"Over the SFT frontier, RL without normalisation forgets {points(plain.over_frontier)}"
        f" ({plain.word}), with it {points(std.over_frontier)} ({std.word}); with it"
        f" {points(_norm_gap(chosen, pair, sft))} more. Of {len(full.cells)} settings RL forgets"
        f" less in {counts[0]}, more in {counts[1]}."
    )
    gap = min(plain.over_frontier, std.over_frontier, key=lambda excess: abs(excess.estimate))
    if word == HOLDS:
        gap = _norm_gap(chosen, pair, sft)
        quantity = "excess over the SFT frontier, final runs, normalised minus plain, against 0"
    return Verdict("advantage_norm", claim, gap, quantity, chosen.n_runs, gap.n, word, text)


def two_by_two(results: Results, sft: Sequence[str]) -> dict[str, Sequence[str]]:
    """Corner of the two by two -> its arms."""
    return {
        "RL on right and wrong answers": results.cast("two_sided", "reward"),
        "RL on right answers alone": results.cast("one_sided", "reward"),
        "imitation of right and wrong answers": results.cast("two_sided", "outside"),
        SFT: sft,
    }


def norm_pair(results: Results) -> tuple[str, str]:
    """(the arm without, the arm with normalised advantages), "" for one that is absent."""
    without, normalised = (results.cast(r, "reward") for r in ("unnormalised", "normalised"))
    return without[0] if without else "", normalised[0] if normalised else ""


def _matched_claim(
    results: Results,
    key: str,
    claim: str,
    *,
    more: tuple[str, Sequence[str]],  # name and arms said to forget more
    less: tuple[str, Sequence[str]],
    also: Sequence[str] = (),  # arms that help choose the target and appear in the sentence
    finish: Callable[[list[Matched], Interval, str], tuple[str, str]],  # -> word, further text
) -> Verdict:
    """Mean forgetting of the arms in `more` minus that of those in `less`, against 0."""
    quantity = f"forgetting of {more[0]} minus that of {less[0]}, best runs, against 0"
    chosen, entries, target, missing = at_target(results, more[1], less[1], also)
    if not entries:
        reason = f"no accuracy above the base is reached by both {more[0]} and {less[0]} arms"
        return no_number(key, claim, quantity, chosen, reason)
    gap = arm_gap(entries, more[1], less[1]).difference
    word, text = finish(entries, gap, judge(gap, 0.0))
    easier = easier_targets(chosen, target, more[1], less[1])
    sentence = (
        f"Best runs at new-task accuracy {target:.3f}: {more[0]} forgets {points(gap)} more than"
        f" {less[0]}.{easier}{text}{missing}"
    )
    return Verdict(key, claim, gap, quantity, chosen.n_runs, gap.n, word, sentence)


def at_target(
    results: Results,
    *groups: Sequence[str],  # of arms; the first two may not come out empty
    shares: Sequence[float] = (0.75, 1.0),
) -> tuple[Results, list[Matched], float, str]:
    """(rows of these arms, entries of arms that reach it in every seed, target, what is missing).

    The target is the highest that the first share of the arms reaches; the next share, where that
    would empty a group. No entries where there is no such target.
    """
    wanted = [arm for group in groups for arm in group]
    chosen = results.select(np.isin(results["arm"], wanted))
    for share in shares:
        target = automatic_target(chosen, share)
        if target is None:
            break
        entries = [e for e in matched(chosen, target) if e.best.n == e.n_seeds]
        have = {entry.arm for entry in entries}
        if all(have & set(group) for group in groups[:2]):
            short = [arm for arm in chosen.arms if arm not in have]
            missing = f" Short of that accuracy and left out: {', '.join(short)}." if short else ""
            return chosen, entries, target, missing
    return chosen, [], float("nan"), ""


def easier_targets(chosen: Results, target: float, more: Sequence[str], less: Sequence[str]) -> str:
    """The same difference at accuracies below the target: the highest is not the only fair one."""
    found = []
    for lower in target_list(chosen):
        entries = [e for e in matched(chosen, lower) if e.best.n == e.n_seeds]
        gap = arm_gap(entries, more, less).difference if entries else None
        if lower < target and gap is not None and np.isfinite(gap.estimate):
            found.append(f"{points(gap)} at {lower:.3f}")
    return f" At lower accuracies: {', '.join(found)}." if found else ""


def mean_forgetting(
    entries: Sequence[Matched], arms: Sequence[str], reading: str = "best"
) -> np.ndarray:
    """Mean over the arms present, f64[U]; NaN for a base where one of them has no value."""
    values = [
        entry.best_by_base if reading == "best" else entry.typical_by_base
        for entry in entries
        if entry.arm in arms
    ]
    return np.mean(values, axis=0) if values else np.full(len(entries[0].base_seeds), np.nan)


def arm_gap(
    entries: Sequence[Matched], more: Sequence[str], less: Sequence[str], reading: str = "best"
) -> Comparison:
    """Mean forgetting of the arms in `more` minus that of those in `less`, over seeds."""
    high, low = (mean_forgetting(entries, arms, reading) for arms in (more, less))
    return paired(high, low, entries[0].base_seeds)


def pair_counts(
    entries: Sequence[Matched], rl: Sequence[str], sft: Sequence[str]
) -> tuple[int, int, int]:
    """(pairs in which the RL arm forgets less, more, all pairs), p-values adjusted over pairs."""
    names = [entry.arm for entry in entries]
    found = [arm_gap(entries, [s], [r]) for r in rl for s in sft if {r, s} <= set(names)]
    decided = adjust([comparison.p for comparison in found]) < 1 - LEVEL
    saved = np.array([comparison.difference.estimate for comparison in found])
    return int(np.sum(decided & (saved > 0))), int(np.sum(decided & (saved < 0))), len(found)


def points(value: Comparison | Interval) -> str:
    """In accuracy points, e.g. '9.3 points [7.1, 11.5]'."""
    interval = value.difference if isinstance(value, Comparison) else value
    return interval.limits(scale=100, digits=1, unit=" points")


def _norm_gap(results: Results, pair: Sequence[str], sft: Sequence[str]) -> Interval:
    """Excess over the SFT frontier of the second of a pair minus the first, over seeds."""
    cells = flip_map(results, pair, sft, axes=("arm", "seed")).cells
    excess = {cell.values: cell.over_frontier.estimate for cell in cells}
    seeds = results.seeds
    plain, std = (
        np.array([excess.get((arm, float(seed)), np.nan) for seed in seeds]) for arm in pair
    )
    return paired(std, plain, seeds).difference
