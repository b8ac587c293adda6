"""How each method looks and is called, the same in every figure and table.

Families are told apart twice, by fill and by hue: arms that learn from the reward are filled and
cool, arms that imitate outside labels are hollow and warm, arms that imitate labels close to the
policy (oracles, own samples, a trained RL policy) are hollow and purple to green. Within a family
the marker shape separates arms, so colour is never needed alone. Every colour keeps a contrast of 3
or more on white and on a near-black page.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RL, OUTSIDE, NEAR, OTHER = (
    "Learns from reward",
    "Imitates outside labels",
    "Imitates labels near the policy",
    "Other methods",
)
FAMILIES = (RL, OUTSIDE, NEAR, OTHER)


@dataclass(frozen=True)
class ArmStyle:
    name: str  # for readers
    family: str  # one of FAMILIES
    colour: str  # "#rrggbb"
    marker: str  # of matplotlib

    @property
    def filled(self) -> bool:
        return self.family == RL


KNOWN = {
    "grpo": ArmStyle("GRPO", RL, "#0a74b0", "o"),
    "grpo_std": ArmStyle("GRPO, std-normalised", RL, "#1493c4", "D"),
    "grpo_kl": ArmStyle("GRPO + KL penalty", RL, "#0c8f78", "s"),
    "grpo_std_kl": ArmStyle("GRPO, std + KL penalty", RL, "#2f9a83", "v"),
    "reinforce": ArmStyle("1-0 REINFORCE", RL, "#5b6bd0", "^"),
    "sft1": ArmStyle("SFT-1", OUTSIDE, "#d1560b", "s"),
    "sft2": ArmStyle("SFT-2", OUTSIDE, "#c77d0a", "o"),
    "simpo": ArmStyle("SimPO", OUTSIDE, "#c23b4e", "X"),
    "dft": ArmStyle("DFT", OUTSIDE, "#a9682f", "v"),
    "sft_kl_base_policy": ArmStyle("SFT + KL(base‖policy)", OUTSIDE, "#dd5f6a", "<"),
    "sft_kl_policy_base": ArmStyle("SFT + KL(policy‖base)", OUTSIDE, "#96800f", ">"),
    "oracle": ArmStyle("Oracle SFT, sampled", NEAR, "#9a55c0", "*"),
    "oracle_soft": ArmStyle("Oracle SFT, soft", NEAR, "#b54a9c", "P"),
    "distilled": ArmStyle("SFT distilled from RL", NEAR, "#7b6cc4", "d"),
    "self_sft": ArmStyle("Self-SFT, frozen samples", NEAR, "#5f8a35", "p"),
    "iterative_sft": ArmStyle("Iterative SFT", NEAR, "#35904f", "h"),
}
_OTHER_COLOURS = ("#7a818a", "#8a7560", "#5f8597", "#96708a")
_OTHER_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "d")


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """One style an arm, in the order given; arms not in KNOWN keep their name (shortened)."""
    unknown = sorted(arm for arm in arms if arm not in KNOWN)
    styles = dict(KNOWN)
    for i, arm in enumerate(unknown):
        colour = _OTHER_COLOURS[i % len(_OTHER_COLOURS)]
        marker = _OTHER_MARKERS[i % len(_OTHER_MARKERS)]
        styles[arm] = ArmStyle(_short(arm), OTHER, colour, marker)
    return {arm: styles[arm] for arm in arms}


def _short(name: str, length: int = 28) -> str:
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 1] + "…"
