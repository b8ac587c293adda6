"""The paper's claims about which method forgets less, as verdicts.

Comparisons at matched accuracy use `automatic_target` over the arms concerned; an arm that misses
it in some seed is left out and named.
"""

from collections.abc import Callable, Sequence

import numpy as np

from rlrazor.analysis.claims import FAILS, HOLDS, UNDECIDED, Verdict, judge, no_number
from rlrazor.analysis.flips import LESS, MORE, NORM_ARMS, flip_map
from rlrazor.analysis.frontier import Matched, automatic_target, matched, target_list
from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import LEVEL, Comparison, Interval, adjust, paired


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
        "RL keeps more of the prior task on every frontier (Figures 2 and 3)",
        more=("SFT", sft),
        less=("RL", rl),
        finish=finish,
    )


def oracle_less(results: Results, rl: Sequence[str]) -> Verdict:
    """The paper's oracle samples its labels; soft targets are another arm, named beside it."""

    def finish(entries, _gap_interval, word):
        if all(entry.arm != "oracle_soft" for entry in entries):
            return word, ""
        soft = arm_gap(entries, rl, ("oracle_soft",))
        return word, f" With soft targets: {points(soft)}."

    return _matched_claim(
        results,
        "oracle_less",
        "SFT on the KL-minimal (oracle) labels forgets even less than RL.",
        "the oracle's frontier lies above RL's (Figure 3)",
        more=("RL", rl),
        less=("oracle SFT", ("oracle",)),
        also=("oracle_soft",),
        finish=finish,
    )


def on_policy(results: Results, sft: Sequence[str]) -> Verdict:
    """A two by two: (GRPO, REINFORCE) against (SFT, SimPO), and (GRPO, SimPO) against the others.

    The claim is saving by on-policy data > |effect of negatives|, that is, for both signs of the
    latter. It holds if both differences are above 0, fails if one is below at 5 % over both.
    """
    claim = "On-policy data, not negative examples, is what keeps forgetting low."
    paper = "1-0 REINFORCE forgets like GRPO, SimPO like SFT (Figure 4)"
    quantity = "forgetting saved by on-policy data minus |effect of negatives|, against 0"
    arms = ("grpo", "reinforce", "simpo")
    chosen, entries, target, missing = at_target(results, arms, sft, shares=(1.0,))
    have = {entry.arm for entry in entries}
    absent = [arm for arm in arms if arm not in have]
    absent += [] if have & {*sft} else sft  # one SFT is enough
    if absent:
        reason = f"absent or short of the accuracy to match: {', '.join(absent)}"
        return no_number("on_policy", claim, paper, quantity, chosen, reason)
    grpo, reinforce, simpo, plain = (
        mean_forgetting(entries, a) for a in (("grpo",), ("reinforce",), ("simpo",), sft)
    )
    saved = (plain + simpo - grpo - reinforce) / 2
    negatives = (plain + reinforce - grpo - simpo) / 2
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
    return Verdict("on_policy", claim, paper, gap, quantity, chosen.n_runs, gap.n, word, text)


def advantage_norm(results: Results, sft: Sequence[str]) -> Verdict:
    """Holds if final runs of one variant forget more than SFT and of the other less.

    Does not hold if both are decided and agree.
    """
    claim = "Dividing advantages by their standard deviation changes whether RL forgets less."
    paper = "normalisation not stated; a replication with it saw RL forget more than SFT"
    quantity = "excess over the SFT frontier, GRPO with std minus without, final runs"
    chosen = results.select(np.isin(results["arm"], [*NORM_ARMS, *sft]))
    marginal = {c.values[0]: c for c in flip_map(chosen, sft=sft, axes=("arm",)).cells}
    if set(marginal) != set(NORM_ARMS):
        absent = ", ".join(arm for arm in NORM_ARMS if arm not in marginal)
        reason = f"no final runs of {absent}"
        return no_number("advantage_norm", claim, paper, quantity, chosen, reason)
    plain, std = (marginal[arm] for arm in NORM_ARMS)
    words = {plain.word, std.word}
    word = HOLDS if words == {LESS, MORE} else UNDECIDED
    if words in ({LESS}, {MORE}):
        word = FAILS
    full = flip_map(chosen, sft=sft)
    counts = [sum(cell.word == w for cell in full.cells) for w in (LESS, MORE)]
    text = (
        f"Over the SFT frontier, GRPO without normalisation forgets {points(plain.over_frontier)}"
        f" ({plain.word}), with it {points(std.over_frontier)} ({std.word}). Of"
        f" {len(full.cells)} settings RL forgets less in {counts[0]}, more in {counts[1]}."
    )
    gap = _norm_gap(chosen, sft)
    return Verdict("advantage_norm", claim, paper, gap, quantity, chosen.n_runs, gap.n, word, text)


def _matched_claim(
    results: Results,
    key: str,
    claim: str,
    paper: str,
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
        return no_number(key, claim, paper, quantity, chosen, reason)
    gap = arm_gap(entries, more[1], less[1]).difference
    word, text = finish(entries, gap, judge(gap, 0.0))
    easier = easier_targets(chosen, target, more[1], less[1])
    sentence = (
        f"Best runs at new-task accuracy {target:.3f}: {more[0]} forgets {points(gap)} more than"
        f" {less[0]}.{easier}{text}{missing}"
    )
    return Verdict(key, claim, paper, gap, quantity, chosen.n_runs, gap.n, word, sentence)


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


def _norm_gap(results: Results, sft: Sequence[str]) -> Interval:
    """Excess over the SFT frontier of the second NORM_ARMS minus the first, over seeds."""
    cells = flip_map(results, sft=sft, axes=("arm", "seed")).cells
    excess = {cell.values: cell.over_frontier.estimate for cell in cells}
    seeds = results.seeds
    plain, std = (
        np.array([excess.get((arm, float(seed)), np.nan) for seed in seeds]) for arm in NORM_ARMS
    )
    return paired(std, plain, seeds).difference
