"""RL against SFT at the same gain, each at its own learning rate, as a verdict."""

from collections import Counter

from rlrazor.analysis import gain
from rlrazor.analysis.arm_claims import points
from rlrazor.analysis.claims import Verdict, judge, no_number
from rlrazor.analysis.equivalence import Mean
from rlrazor.analysis.gain import FORGETTING, MARGIN, Contrast
from rlrazor.analysis.results import Results

KEY = "rl_less_at_gain"


def rl_less_at_gain(results: Results) -> Verdict:
    """Of the first plain arm of RL and of SFT, on the units that both reach.

    At the primary gain, or, where fewer than two units reach it, the highest below that two reach.
    """
    claim = "At the same gain, each at its own learning rate, on-policy RL forgets less than SFT."
    quantity = "forgetting of SFT minus that of RL at the same gain, against 0"
    if not (results.rl and results.sft):
        return no_number(KEY, claim, quantity, results, "an arm of RL or of plain SFT is missing")
    found = gain.contrasts(results)
    lead = _lead(found, results.rl[0])
    if lead is None:
        reason = f"no gain of {100 * min(gain.GAINS):g} points is reached by both"
        return no_number(KEY, claim, quantity, results, reason)
    less = _less(lead)
    sentence = (
        f"At a gain of {100 * lead.gain:g} points SFT forgets {points(less.interval())} more than "
        f"RL ({lead.arm}), on {less.n} of {len(_units(results, lead))} bases or seeds.{_same(less)}"
        f"{_lower(found, lead)}{_others(found, lead)}"
    )
    interval = less.interval()
    word = judge(interval, 0.0)
    return Verdict(KEY, claim, interval, quantity, results.n_runs, less.n, word, sentence)


def _lead(found: list[Contrast], arm: str) -> Contrast | None:
    mine = [pair for pair in _forgetting(found) if pair.arm == arm and pair.difference.n]
    upto = [pair for pair in mine if pair.gain <= gain.PRIMARY]
    several = [pair for pair in upto if pair.difference.n > 1]
    return max(several or upto or mine, key=lambda pair: pair.gain, default=None)


def _less(pair: Contrast) -> Mean:
    """What SFT forgets more."""
    return Mean(-pair.difference.estimate, pair.difference.error, pair.difference.n)


def _forgetting(found: list[Contrast]) -> list[Contrast]:
    return [pair for pair in found if pair.quantity == FORGETTING]


def _units(results: Results, pair: Contrast) -> tuple[int, ...]:
    return gain.at_gain(results, pair.gain)[0].seeds


def _same(less: Mean) -> str:
    p = less.p_equivalent(MARGIN)
    margin = f"{100 * MARGIN:g} points"
    if p != p:
        return ""
    if p < gain.ALPHA:
        return f" The difference lies within {margin} (two one-sided tests, p = {p:.3f})."
    return f" That it lies within {margin} is not shown (two one-sided tests, p = {p:.2f})."


def _lower(found: list[Contrast], lead: Contrast) -> str:
    """The same difference at the other gains."""
    told = [
        f"{points(_less(pair).interval())} at {100 * pair.gain:g} ({pair.difference.n})"
        for pair in _forgetting(found)
        if pair.arm == lead.arm and pair.gain != lead.gain and pair.difference.n
    ]
    return f" At other gains (and on how many): {', '.join(told)}." if told else ""


def _others(found: list[Contrast], lead: Contrast) -> str:
    """What the further arms have at this gain, after Holm's correction."""
    words = Counter(
        pair.word for pair in _forgetting(found) if pair.gain == lead.gain and pair.arm != lead.arm
    )
    told = ", ".join(f"{count} {word}" for word, count in words.items())
    return f" Forgetting of the other methods against SFT: {told}." if told else ""
