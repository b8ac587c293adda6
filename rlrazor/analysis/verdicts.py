"""The papers' claims, each judged by a rule fixed before looking (claims.py).

Eight on forgetting, and ten on generalization where a rule that training never showed was tested.
They are not corrected for each other.
"""

from collections.abc import Mapping, Sequence

from rlrazor.analysis import arm_claims, law_claims, shift_claims
from rlrazor.analysis.claims import FAILS, HOLDS, UNDECIDED, Verdict
from rlrazor.analysis.flips import NORM_ARMS
from rlrazor.analysis.results import RL_ARMS, SFT_ARMS, Results, main_base, main_variant
from rlrazor.analysis.shift import turn_budgets, variant_rows
from rlrazor.analysis.statistics import RESAMPLES

__all__ = ["FAILS", "HOLDS", "UNDECIDED", "Verdict", "untested", "verdicts"]


def verdicts(
    results: Results,
    *,
    rl: Sequence[str] = RL_ARMS,
    sft: Sequence[str] = SFT_ARMS,
    resamples: int = RESAMPLES,
) -> list[Verdict]:
    """In the order of the papers' arguments, forgetting first.

    All but advantage_norm use the base strength that most runs start from. A study of the other
    rule leaves out the claims about methods that it did not train: see `untested`.
    """
    main = main_base(results)
    plain = main_variant(main)
    forgetting = [
        arm_claims.rl_less(plain, rl, sft),
        law_claims.kl_pooled(plain, resamples),
        law_claims.same_curve(plain, rl, resamples),
        law_claims.kl_within(plain, resamples),
        law_claims.kl_best(plain, resamples),
        arm_claims.oracle_less(plain, rl),
        arm_claims.on_policy(plain, sft),
        arm_claims.advantage_norm(main_variant(results), sft),
    ]
    if "ood/accuracy" not in results:
        return forgetting
    shift = [
        shift_claims.rl_gains(main, rl),
        shift_claims.sft_loses(main, sft),
        shift_claims.rl_beats_sft(main, rl, sft),
        shift_claims.rl_beats_early_sft(main, rl, sft),
        shift_claims.more_turns(main, rl),
        shift_claims.diverse_sft(main, sft),
        shift_claims.rl_sharpens(main, rl),
        shift_claims.rl_forgets_less_at_end(main, rl, sft),
        shift_claims.kl_ood(main, resamples),
        shift_claims.sft_ignores(main, sft),
    ]
    absent = untested(main, rl=rl, sft=sft)
    return [verdict for verdict in (*forgetting, *shift) if verdict.key not in absent]


def untested(
    results: Results, *, rl: Sequence[str] = RL_ARMS, sft: Sequence[str] = SFT_ARMS
) -> Mapping[str, str]:
    """Claim -> methods it needs and these results do not have."""
    plain = set(main_variant(results).arms)
    needs = {
        "oracle_less": (("oracle",), rl),
        "on_policy": (("grpo",), ("reinforce",), ("simpo",), sft),
        "advantage_norm": (*((arm,) for arm in NORM_ARMS), sft),
        "rl_gains": (rl,),
        "rl_sharpens": (rl,),
        "sft_loses": (sft,),
        "sft_ignores": (sft,),
        **dict.fromkeys(
            ("rl_less", "rl_beats_sft", "rl_beats_early_sft", "rl_forgets_less_at_end"), (rl, sft)
        ),
    }
    out = {
        key: ", ".join(group[0] if len(group) == 1 else _family(group, rl) for group in missing)
        for key, groups in needs.items()
        if (missing := [group for group in groups if not plain & set(group)])
    }
    if not turn_budgets(results, rl):
        out["more_turns"] = "RL with several turns"
    if not len(variant_rows(results, sft, ("diverse",))):
        out["diverse_sft"] = "SFT on diverse prompts"
    return out


def _family(group: Sequence[str], rl: Sequence[str]) -> str:
    return "RL" if group == rl else "plain SFT"
