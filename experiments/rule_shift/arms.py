"""The arms of the rule-shift study: where its tokens come from, and what is minimised on them.

A method is a source and an objective; a variant changes one thing about how any method is trained.
"""

import dataclasses

PLAYED = ("base", "policy", "kept", "teacher")  # sources whose rows are answers to be sampled
SOURCES = ("expert", "pairs", *PLAYED)


@dataclasses.dataclass(frozen=True)
class Method:
    """What is learnt from, and how.

    Sources: `expert` demonstrations; `pairs` of an expert's right and wrong answer; samples of the
    `base` or of the `policy` that the judge calls right (`kept`); samples of the `policy` with its
    rewards; samples of a `teacher`, a finished run of another method.
    """

    source: str
    objective: str  # a name in objectives.OBJECTIVES
    advantage: str | None = None  # of a sample among those of its prompt; a name in batches
    needs_base: bool = False  # the base reads every row too
    teacher: str | None = None  # the method whose finished run it learns from
    epochs: int = 1  # over the rows of an iteration


METHODS = {
    # imitation of an outside expert
    "sft": Method("expert", "nll"),
    "dft": Method("expert", "dft"),
    "psft": Method("expert", "psft"),
    "sft_kl_base_policy": Method("expert", "anchored_nll", needs_base=True),
    "simpo": Method("pairs", "simpo"),
    "dpo": Method("pairs", "dpo", needs_base=True),
    # imitation of answers that the base or the policy gave and the judge called right
    "self_sft": Method("base", "nll"),
    "iterative_sft": Method("kept", "nll"),
    # learning from reward
    "grpo": Method("policy", "grpo", "centred"),
    "grpo_std": Method("policy", "grpo_std", "standardised"),
    "rloo": Method("policy", "rloo", "leave_one_out"),
    "reinforce": Method("policy", "reinforce", "reward"),
    "dapo": Method("policy", "dapo", "standardised"),
    "gspo": Method("policy", "gspo", "standardised"),
    "ppo": Method("policy", "ppo", epochs=4),
    "grpo_kl": Method("policy", "anchored_grpo", "centred", needs_base=True),
    # a teacher's distributions or samples
    "distilled": Method("teacher", "nll", teacher="grpo"),
    "on_policy_distillation": Method("policy", "on_policy_distillation", "reward", teacher="grpo"),
    "sdft": Method("policy", "sdft", "reward"),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a run is trained, whatever its method."""

    direction: str = "paper"  # "paper" trains with J = Q = K = 10, "reverse" with 11, 12, 13
    turns: int = 1  # answers an episode, the verifier's words between them
    diverse: bool = False  # several wordings and rules in training, never the rule of the test
    terse: bool = False  # the formula without the reading steps
    fixed: bool = False  # a small set of hands instead of fresh ones: what over-fitting needs
    rewards: str = "binary"  # "paper": +5, -1, -2, -3; "released": as its public code adds them up
    slowed: float = 1.0  # times the method's learning rate
    start: tuple[str, float] | None = None  # (arm, share of its budget) whose policy it begins with


VARIANTS = {
    "main": Variant(),
    "reverse": Variant(direction="reverse"),
    "turns_3": Variant(turns=3),
    "turns_5": Variant(turns=5),
    "turns_10": Variant(turns=10),
    "diverse": Variant(diverse=True),
    "terse": Variant(terse=True),
    "paper": Variant(rewards="paper"),
    "released": Variant(rewards="released"),
    "fixed": Variant(fixed=True),
    "slow": Variant(slowed=0.1),
    "from_sft": Variant(start=("sft", 0.1)),
    "from_overfit": Variant(start=("sft_fixed", 1.0)),
}


@dataclasses.dataclass(frozen=True)
class Arm:
    method: str
    variant: str = "main"

    @property
    def name(self) -> str:
        return self.method if self.variant == "main" else f"{self.method}_{self.variant}"

    @property
    def how(self) -> Method:
        return METHODS[self.method]

    @property
    def setting(self) -> Variant:
        return VARIANTS[self.variant]

    @property
    def teacher(self) -> str | None:
        """The arm that it learns from, trained on the same task."""
        other_task = self.setting.terse or self.setting.direction != "paper"
        if self.how.teacher is None:
            return None
        return Arm(self.how.teacher, self.variant if other_task else "main").name

    @property
    def needs(self) -> tuple[str, ...]:
        """Arms whose policies it starts from or learns from."""
        start = None if self.setting.start is None else self.setting.start[0]
        return tuple(arm for arm in (self.teacher, start) if arm is not None)


ARMS = {
    arm.name: arm for method in METHODS for variant in VARIANTS for arm in [Arm(method, variant)]
}
