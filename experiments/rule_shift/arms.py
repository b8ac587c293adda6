"""The arms of the rule-shift study: any method, and one thing changed about how it is trained."""

import dataclasses

from rlrazor.methods import methods
from rlrazor.methods.method import Method


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a run is trained, whatever its method."""

    words: str = ""  # behind the method's label, for reports
    direction: str = "paper"  # "paper" trains with J = Q = K = 10, "reverse" with 11, 12, 13
    turns: int = 1  # answers an episode, the verifier's words between them
    diverse: bool = False  # several wordings and rules in training, never the rule of the test
    terse: bool = False  # the formula without the reading steps
    fixed: bool = False  # a small set of hands instead of fresh ones: what over-fitting needs
    rewards: str = "binary"  # "paper": +5, -1, -2, -3; "released": as its public code adds them up
    slowed: float = 1.0  # times the method's learning rate
    start: tuple[str, float] | None = None  # (arm, share of its budget) whose policy it begins with


MAIN = "main"
VARIANTS = {
    MAIN: Variant(),
    "reverse": Variant("rules reversed", direction="reverse"),
    "turns_3": Variant("3 turns", turns=3),
    "turns_5": Variant("5 turns", turns=5),
    "turns_10": Variant("10 turns", turns=10),
    "diverse": Variant("diverse prompts", diverse=True),
    "terse": Variant("formula only", terse=True),
    "paper": Variant("paper's reward", rewards="paper"),
    "released": Variant("released verifier", rewards="released"),
    "fixed": Variant("small fixed set", fixed=True),
    "slow": Variant("a tenth of the rate", slowed=0.1),
    "from_sft": Variant("from early SFT", start=("sft", 0.1)),
    "from_overfit": Variant("from over-fitted SFT", start=("sft_fixed", 1.0)),
}


@dataclasses.dataclass(frozen=True)
class Named:
    """What an arm's name says: a method, and a variant."""

    method: Method
    variant: str = MAIN

    @property
    def name(self) -> str:
        return self.method.name if self.variant == MAIN else f"{self.method.name}_{self.variant}"

    @property
    def label(self) -> str:
        """As reports print it."""
        words = self.setting.words
        return f"{self.method.label}, {words}" if words else self.method.label

    @property
    def setting(self) -> Variant:
        return VARIANTS[self.variant]

    @property
    def teacher(self) -> str | None:
        """The arm that it learns from, trained on the same task."""
        if self.method.teacher is None:
            return None
        other_task = self.setting.terse or self.setting.direction != "paper"
        variant = self.variant if other_task else MAIN
        return Named(methods.named(self.method.teacher), variant).name


def read_name(arm: str) -> Named:
    """The method and variant of an arm called "METHOD" or "METHOD_VARIANT"; ValueError else."""
    for variant in VARIANTS:
        suffix = "" if variant == MAIN else f"_{variant}"
        method = arm.removesuffix(suffix)
        if arm == method + suffix and method in methods.all_methods():
            return Named(methods.named(method), variant)
    raise ValueError(
        f"unknown arm {arm!r}; an arm is a method ({', '.join(methods.all_methods())}), or one "
        f"with a variant behind it (_{', _'.join(name for name in VARIANTS if name != MAIN)})"
    )
