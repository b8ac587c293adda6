"""What papers report, by the study that repeats them; a study that is not here repeats none.

Sources: RL's Razor (arXiv 2509.04259), SFT Memorizes, RL Generalizes (arXiv 2501.17161), and where
neither measured a claim, the follow-up named beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Success under one shift in SFT Memorizes, RL Generalizes, percent."""

    where: str  # the benchmark and its modality
    start: float
    rl: float
    sft: float
    test: str = ""  # of RL against its start, which the paper does not make


RAZOR: Mapping[str, str] = {  # claim -> what the paper reports
    "rl_less": "RL keeps more of the prior task on every frontier (Figures 2 and 3)",
    "rl_less_at_gain": "RL keeps more of the prior task on every frontier (Figures 2 and 3)",
    "kl_pooled": "R2 = 0.96 (0.71 on language models)",
    "same_curve": "one curve for all methods, by eye (Figure 3)",
    "kl_within": "not reported",
    "kl_best": "R2 0.96, against 0.93 or less for every other predictor (Table 1)",
    "oracle_less": "the oracle's frontier lies above RL's (Figure 3)",
    "on_policy": "1-0 REINFORCE forgets like GRPO, SimPO like SFT (Figure 4)",
    "advantage_norm": (
        "normalisation not stated; a replication with it saw RL forget more than SFT"
    ),
    "rl_forgets_less_at_end": "RL keeps more of the prior tasks (arXiv 2509.04259)",
    "kl_shift": "not measured; for forgetting R2 = 0.96",
}
# Predictor of forgetting -> its R2 in RL's Razor, Table 1 (ParityMNIST, second-degree fit), and in
# a public replication (SakanaAI/rl-razor-mnist, one seed).
TABLE_1: Mapping[str, tuple[float | None, float | None]] = {
    "new/kl_base_policy_nats": (0.96, 0.94),
    "new/kl_policy_base_nats": (0.93, 0.90),
    "new/total_variation": (0.80, 0.88),
    "new/l2_distance": (0.56, 0.85),
    "weights/fisher_l2": (0.58, 0.09),
    "weights/spectral_norm": (0.58, 0.31),
    "weights/l1": (0.34, 0.32),
    "new/activation_l1": (0.52, 0.73),
    "new/activation_l2": (0.55, 0.73),
    "prior/kl_base_policy_nats": (None, 0.92),
    "prior/total_variation": (None, 0.99),
    "prior/l2_distance": (None, 0.99),
    "prior/activation_l1": (None, 0.84),
    "prior/activation_l2": (None, 0.83),
}
OUTCOMES: Mapping[str, Mapping[str, Outcome]] = {  # study -> shift -> what the paper reports
    "sft_memorizes_gp_l": {
        "rule": Outcome(
            "GeneralPoints in text", 11.5, 15.0, 3.4, "27 and 35 of 234 episodes, p = 0.28"
        ),
    },
    "sft_memorizes_gp_vl": {
        "rule": Outcome("GeneralPoints with images", 11.2, 14.2, 5.6),
        "visual": Outcome("GeneralPoints with images", 23.6, 41.2, 13.7),
    },
    "sft_memorizes_virl_l": {
        "rule": Outcome("V-IRL in text, per step", 80.8, 91.8, 1.3),
    },
    "sft_memorizes_virl_vl": {
        "rule": Outcome("V-IRL with images, per step", 35.7, 45.0, 2.5),
        "visual": Outcome("V-IRL with images, whole routes", 16.7, 77.8, 11.1),
    },
}
# Change of success by the turns of a training episode, under the rule that training never showed.
TURN_GAINS: Mapping[str, Mapping[int, float]] = {
    "sft_memorizes_gp_l": {1: 0.0048, 3: 0.0215, 5: 0.0299, 10: 0.0599},
}
_ELSEWHERE: Mapping[str, str] = {
    "rl_beats_early_sft": (
        "not compared; elsewhere RL restores but does not beat that peak (arXiv 2509.12235)"
    ),
    "diverse_sft": "not tried; elsewhere 0.23 to 0.71 on one such rule (arXiv 2510.00237)",
    "rl_sharpens": "not measured; elsewhere the base overtakes RL at large k (arXiv 2504.13837)",
    "sft_ignores": (
        "not measured; elsewhere 0.93 and 0.68 by the old rule, near 0 by the new"
        " (arXiv 2510.00237)"
    ),
}


def reported(study: str, claim: str, shift: str = "") -> str:
    """What is reported on a claim (a verdict's key) under a named shift; "" where nothing is."""
    if study not in {"razor_parity", *OUTCOMES}:
        return ""
    if claim in RAZOR:
        return RAZOR[claim]
    found = OUTCOMES.get(study, {}).get(shift)
    if found is not None and (text := _of(found, claim)):
        return text
    gains = TURN_GAINS.get(study)
    if claim == "more_turns" and shift == "rule" and gains:
        values, turns = (_listed([f"{x:g}" for x in xs])
                         for xs in ([100 * g for g in gains.values()], gains))  # fmt: skip
        return f"gains of {values} points with {turns} turns"
    return _ELSEWHERE.get(claim, "") if study in OUTCOMES else ""


def repeats_table_1(study: str) -> bool:
    """Whether RL's Razor's R2 of each predictor may stand beside this study's."""
    return study in {"razor_parity", *OUTCOMES}


def _of(found: Outcome, claim: str) -> str:
    test = f"; {found.test}" if found.test else ""
    return {
        "rl_gains": f"{found.start} % to {found.rl} % ({found.where}{test})",
        "sft_loses": f"{found.start} % to {found.sft} % ({found.where})",
        "rl_beats_sft": f"{found.rl} % against {found.sft} % ({found.where})",
    }.get(claim, "")


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
