"""How each method looks and is called, the same in every figure and table.

Families are told apart twice, by fill and by hue: arms that learn from the reward are filled and
cool, arms that imitate outside labels are hollow and warm, arms that imitate labels close to the
policy (oracles, own samples, a trained RL policy) are hollow and purple to green. Within a family
the marker shape separates arms, so colour is never needed alone. Every colour keeps a contrast of 3
or more on white and on a near-black page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    "rloo": ArmStyle("RLOO", RL, "#3f86d6", ">"),
    "dapo": ArmStyle("DAPO", RL, "#1b8a9c", "P"),
    "gspo": ArmStyle("GSPO", RL, "#7a72d8", "<"),
    "ppo": ArmStyle("PPO", RL, "#2b6fc7", "p"),
    "sft": ArmStyle("SFT", OUTSIDE, "#d1560b", "D"),
    "sft1": ArmStyle("SFT-1", OUTSIDE, "#d1560b", "s"),
    "sft2": ArmStyle("SFT-2", OUTSIDE, "#c77d0a", "o"),
    "simpo": ArmStyle("SimPO", OUTSIDE, "#c23b4e", "X"),
    "dpo": ArmStyle("DPO", OUTSIDE, "#cf4a7c", "P"),
    "psft": ArmStyle("PSFT", OUTSIDE, "#b06a12", "^"),
    "dft": ArmStyle("DFT", OUTSIDE, "#a9682f", "v"),
    "sft_kl_base_policy": ArmStyle("SFT + KL(base‖policy)", OUTSIDE, "#dd5f6a", "<"),
    "sft_kl_policy_base": ArmStyle("SFT + KL(policy‖base)", OUTSIDE, "#96800f", ">"),
    "oracle": ArmStyle("Oracle SFT, sampled", NEAR, "#9a55c0", "*"),
    "oracle_soft": ArmStyle("Oracle SFT, soft", NEAR, "#b54a9c", "P"),
    "distilled": ArmStyle("SFT distilled from RL", NEAR, "#7b6cc4", "d"),
    "on_policy_distillation": ArmStyle("On-policy distillation", NEAR, "#8f63b8", "D"),
    "sdft": ArmStyle("SDFT", NEAR, "#a6559e", "s"),
    "self_sft": ArmStyle("Self-SFT, frozen samples", NEAR, "#5f8a35", "p"),
    "iterative_sft": ArmStyle("Iterative SFT", NEAR, "#35904f", "h"),
}
# A variant of a method looks like the method; its name says what is different.
VARIANTS = {
    "reverse": "rules reversed",
    "turns_3": "3 turns",
    "turns_5": "5 turns",
    "turns_10": "10 turns",
    "diverse": "diverse prompts",
    "terse": "formula only",
    "from_sft": "from early SFT",
    "from_overfit": "from over-fitted SFT",
    "released": "released verifier",
    "fixed": "small fixed set",
    "slow": "a tenth of the rate",
    "paper": "paper's reward",
}
_OTHER_COLOURS = ("#7a818a", "#8a7560", "#5f8597", "#96708a")
_OTHER_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "d")


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """One style an arm, in the order given; arms that are no variant of one in KNOWN keep their
    name (shortened)."""
    styles = dict(KNOWN)
    for arm in arms:
        if arm not in KNOWN and (variant := _variant(arm)) is not None:
            styles[arm] = variant
    unknown = sorted(arm for arm in arms if arm not in styles)
    for i, arm in enumerate(unknown):
        colour = _OTHER_COLOURS[i % len(_OTHER_COLOURS)]
        marker = _OTHER_MARKERS[i % len(_OTHER_MARKERS)]
        styles[arm] = ArmStyle(_short(arm), OTHER, colour, marker)
    return {arm: styles[arm] for arm in arms}


def _variant(arm: str) -> ArmStyle | None:
    for suffix, what in VARIANTS.items():
        method = arm.removesuffix(f"_{suffix}")
        if method != arm and method in KNOWN:
            return replace(KNOWN[method], name=f"{KNOWN[method].name}, {what}")
    return None


def _short(name: str, length: int = 28) -> str:
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 1] + "…"
