"""Lines of the first schema, and what this project's own methods are: the one place with names.

The first schema had no family, no label and no roles, one shift (`ood/*`), and told variants in
`hyperparameters`. `upgraded` gives such a line the columns of schema 2 (see rlrazor/lines.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlrazor.lines import FAMILIES, FAMILY_MEANINGS, MAIN, Family


@dataclass(frozen=True)
class Known:
    """What a line says of its method where it says it itself."""

    label: str
    family: Family
    roles: str = ""


METHODS: Mapping[str, Known] = {
    "grpo": Known("GRPO", "reward", "plain two_sided unnormalised"),
    "grpo_std": Known("GRPO, std-normalised", "reward", "plain normalised"),
    "reinforce": Known("1-0 REINFORCE", "reward", "plain one_sided"),
    "rloo": Known("RLOO", "reward", "plain"),
    "dapo": Known("DAPO", "reward", "plain"),
    "gspo": Known("GSPO", "reward", "plain"),
    "ppo": Known("PPO", "reward", "plain"),
    # A penalty on KL is no evidence on on-policy data.
    "grpo_kl": Known("GRPO + KL penalty", "reward"),
    "grpo_std_kl": Known("GRPO, std + KL penalty", "reward"),
    "sft": Known("SFT", "outside", "plain"),
    "sft1": Known("SFT-1", "outside", "plain"),
    "sft2": Known("SFT-2", "outside", "plain"),
    "simpo": Known("SimPO", "outside", "two_sided"),
    "dpo": Known("DPO", "outside"),
    "psft": Known("PSFT", "outside"),
    "dft": Known("DFT", "outside"),
    "sft_kl_base_policy": Known("SFT + KL(base‖policy)", "outside"),
    "sft_kl_policy_base": Known("SFT + KL(policy‖base)", "outside"),
    "oracle": Known("Oracle SFT, sampled", "near", "kl_minimal"),
    "oracle_soft": Known("Oracle SFT, soft", "near", "kl_minimal_soft"),
    "distilled": Known("SFT distilled from RL", "near"),
    "on_policy_distillation": Known("On-policy distillation", "near"),
    "sdft": Known("SDFT", "near"),
    "self_sft": Known("Self-SFT, frozen samples", "near"),
    "iterative_sft": Known("Iterative SFT", "near"),
}
VARIANTS: Mapping[str, str] = {
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
    "lora": "LoRA",
}
PARITY, POINTS, FINETUNE = "razor_parity", "sft_memorizes_gp_l", "finetune"


def known(arm: str) -> Known | None:
    """What an arm of these names is; of a variant, its method's family and its own label."""
    if arm in METHODS:
        return METHODS[arm]
    for variant, what in VARIANTS.items():
        method = METHODS.get(arm.removesuffix(f"_{variant}"))
        if arm.endswith(f"_{variant}") and method is not None:
            return Known(f"{method.label}, {what}", method.family, method.roles)
    return None


def roles_of(family: str, *names: str) -> str:
    """The roles of a line that gives none: those of the first known name of this family."""
    for name in names:
        found = known(name)
        if found is not None and found.family == family:
            return found.roles
    return "" if family == "near" else "plain"


def upgraded(line: Mapping[str, Any], families: Mapping[str, Family]) -> dict[str, Any]:
    """The columns of schema 2 that follow from a line of the first; nothing that it says is lost.

    `families` are the reader's word for arms that the table above does not know.
    """
    arm, nested = line["arm"], line.get("hyperparameters") or {}
    method = line.get("method") or nested.get("method") or arm
    found = known(arm) or known(method)
    family = line.get("family") or families.get(arm) or (found.family if found else None)
    if family not in FAMILIES:
        meanings = ", ".join(f"{name!r} ({what})" for name, what in FAMILY_MEANINGS.items())
        raise ValueError(
            f"arm {arm!r} has "
            + (f"the family {family!r}" if family else "no family")
            + f"; add 'family' to its lines or give --family={arm}:reward when reporting. It is "
            f"one of {meanings}"
        )
    same = found is not None and found.family == family
    out = {_renamed(name): value for name, value in line.items()}
    out |= {
        "study": line.get("study") or _study(line, nested, found),
        "method": method,
        "variant": line.get("variant") or nested.get("variant") or MAIN,
        "family": family,
        "label": line.get("label") or (found.label if found and same else arm),
    }
    return out


def _renamed(name: str) -> str:
    return f"shift/rule/{name.removeprefix('ood/')}" if name.startswith("ood/") else name


def _study(line: Mapping[str, Any], nested: Mapping[str, Any], found: Known | None) -> str:
    """The study that wrote such lines; "" where none of this project's did."""
    if found is None:
        return ""
    if "ood/accuracy" in line:
        return POINTS
    return FINETUNE if "model" in nested else PARITY
