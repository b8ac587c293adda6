"""The paper's claims, each judged by a rule fixed before looking (claims.py).

The eight are not corrected for each other.
"""

from collections.abc import Sequence

from rlrazor.analysis import arm_claims, law_claims
from rlrazor.analysis.claims import FAILS, HOLDS, UNDECIDED, Verdict
from rlrazor.analysis.results import RL_ARMS, SFT_ARMS, Results, main_base
from rlrazor.analysis.statistics import RESAMPLES

__all__ = ["FAILS", "HOLDS", "UNDECIDED", "Verdict", "verdicts"]


def verdicts(
    results: Results,
    *,
    rl: Sequence[str] = RL_ARMS,
    sft: Sequence[str] = SFT_ARMS,
    resamples: int = RESAMPLES,
) -> list[Verdict]:
    """All eight, in the order of the paper's argument.

    All but the last use the base strength that most runs start from; the last uses every base.
    """
    main = main_base(results)
    return [
        arm_claims.rl_less(main, rl, sft),
        law_claims.kl_pooled(main, resamples),
        law_claims.same_curve(main, rl, resamples),
        law_claims.kl_within(main, resamples),
        law_claims.kl_best(main, resamples),
        arm_claims.oracle_less(main, rl),
        arm_claims.on_policy(main, sft),
        arm_claims.advantage_norm(results, sft),
    ]
