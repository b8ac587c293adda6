"""What a verdict on a claim is, and the one rule that gives its word.

A claim names a number and a threshold. It "holds" where the whole 95 % interval lies on the
claimed side, "does not hold" where it lies on the other, and is "undecided" otherwise, as it always
is with one seed. Extra conditions, stated beside each claim, can only turn a word into
"undecided", for or against the paper alike.
"""

from dataclasses import dataclass

from rlrazor.analysis.results import Results
from rlrazor.analysis.statistics import Interval

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Verdict:
    """One claim, what the paper says, what these results say."""

    key: str  # rl_less, kl_pooled, same_curve, ...: the name of the function that judges it
    claim: str  # in one sentence
    ours: Interval | None  # the number the word rests on; None if it could not be computed
    quantity: str  # what `ours` measures, with its unit and the threshold it is held against
    n_runs: int
    n_seeds: int
    word: str  # HOLDS, FAILS or UNDECIDED
    sentence: str  # the verdict in words, with numbers
    shift: str = ""  # the named shift that it is about
    paper: str = ""  # what a paper reports, "" where none does (papers.py)

    @property
    def id(self) -> str:
        """One a verdict of the same results: the key, and the shift where it is about one."""
        return f"{self.key}/{self.shift}" if self.shift else self.key


def judge(interval: Interval | None, threshold: float) -> str:
    """The one rule: which side of the threshold the whole interval lies on."""
    if interval is None:
        return UNDECIDED
    return {1: HOLDS, -1: FAILS, 0: UNDECIDED}[interval.side(threshold)]


def no_number(
    key: str, claim: str, quantity: str, results: Results, reason: str, shift: str = ""
) -> Verdict:
    """The verdict where nothing could be computed, and why."""
    n_seeds = len(results.seeds)
    sentence = f"No number: {reason}."
    return Verdict(key, claim, None, quantity, results.n_runs, n_seeds, UNDECIDED, sentence, shift)
