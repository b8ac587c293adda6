"""The methods of both papers and of those that answered them, as values.

`methods.grpo.tuned(clip_high=0.28)` is another value; a method of one's own is a
`methods.method.Method` like these.
"""

import functools
import sys

from rlrazor.methods import critic, distillation, imitation, reward
from rlrazor.methods.method import (
    Demonstrations,
    Episodes,
    Method,
    Pairs,
    Passes,
    answers,
)
from rlrazor.ops.advantages import centred, leave_one_out, standardised

# The epsilon is TRL's; std divides by G, not G - 1.
_standardised = functools.partial(standardised, epsilon=1e-4)
_CLIP = {"clip_low": 0.2, "clip_high": 0.2}  # PPO's paper (arXiv 1707.06347)

# Imitation of an outside expert

sft = Method("sft", "SFT", "outside", Demonstrations(), imitation.nll)
dft = Method("dft", "DFT", "outside", Demonstrations(), imitation.dft)
psft = Method(
    "psft",
    "PSFT",
    "outside",
    Demonstrations(),
    imitation.psft,
    knobs={"clip_high": 0.28},  # its paper (arXiv 2508.17784)
    prepare=imitation.with_old_logprobs,
    passes=Passes(policy=1),
)
eaft = Method(
    "eaft",
    "EAFT",
    "outside",
    Demonstrations(),
    imitation.eaft,
    knobs={"most_likely": 20},  # its paper (arXiv 2601.02151)
    roles="",  # weighs what it imitates by what the policy knows
)
talr = Method(
    "talr",
    "TALR",
    "outside",
    Demonstrations(),
    imitation.talr,
    knobs={"least": 0.01},
    prepare=imitation.with_old_logprobs,
    normalise=imitation.with_tempered_weights,
    passes=Passes(policy=1),
    roles="",
)
sft_kl_base_policy = Method(
    "sft_kl_base_policy",
    "SFT + KL(base‖policy)",
    "outside",
    Demonstrations(),
    imitation.anchored_nll,
    knobs={"coefficient": 0.5},  # the strongest of arXiv 2510.00237
    passes=Passes(base=1),
)
sft_kl_prior = Method(
    "sft_kl_prior",
    "SFT + KL on prior-like samples",
    "outside",
    Demonstrations(anchored=True),
    imitation.anchored_elsewhere_nll,
    knobs={"coefficient": 1.0},  # ours
    passes=Passes(base=1),
    roles="",
)
simpo = Method(
    "simpo",
    "SimPO",
    "outside",
    Pairs(),
    imitation.simpo,
    knobs={"beta": 1.0, "margin": 1.0},  # RL's Razor, as it prints the loss
    weight=imitation.pairs,
)
dpo = Method(
    "dpo",
    "DPO",
    "outside",
    Pairs(),
    imitation.dpo,
    knobs={"beta": 0.1},  # its paper (arXiv 2305.18290)
    weight=imitation.pairs,
    prepare=imitation.with_base_logprobs,
    passes=Passes(base=1),
)

# Imitation of answers that the base or the policy gave and the judge called right

self_sft = Method(
    "self_sft",
    "Self-SFT, frozen samples",
    "near",
    Episodes(of="base", keep="correct"),
    imitation.nll,
)
iterative_sft = Method(
    "iterative_sft", "Iterative SFT", "near", Episodes(keep="correct"), imitation.nll
)

# Learning from reward

grpo = Method(
    "grpo",
    "GRPO",
    "reward",
    Episodes(),
    reward.grpo,
    knobs=_CLIP,
    weight=answers,
    advantage=centred,
)
grpo_std = Method(
    "grpo_std",
    "GRPO, std-normalised",
    "reward",
    Episodes(),
    reward.grpo_std,
    knobs=_CLIP,
    weight=answers,
    advantage=_standardised,
)
rloo = Method(
    "rloo",
    "RLOO",
    "reward",
    Episodes(),
    reward.rloo,
    knobs=_CLIP,
    weight=answers,
    advantage=leave_one_out,
)
reinforce = Method(
    "reinforce",
    "1-0 REINFORCE",
    "reward",
    Episodes(),
    reward.reinforce,
    weight=answers,
    advantage=reward.as_they_are,
)
dapo = Method(
    "dapo",
    "DAPO",
    "reward",
    Episodes(),
    reward.dapo,
    knobs={"clip_low": 0.2, "clip_high": 0.28},  # its paper (arXiv 2503.14476)
    advantage=_standardised,
)
gspo = Method(
    "gspo",
    "GSPO",
    "reward",
    Episodes(),
    reward.gspo,
    knobs={"clip_low": 3e-4, "clip_high": 4e-4},  # its paper (arXiv 2507.18071)
    weight=answers,
    advantage=_standardised,
)
ppo = Method(
    "ppo",
    "PPO",
    "reward",
    Episodes(),
    critic.ppo,
    knobs={  # the released code of SFT Memorizes, RL Generalizes
        "clip": 0.1,
        "fallback_above": 10.0,
        "value_coefficient": 0.5,
        "thought_weight": 0.5,
        "answer_token": None,  # of the task's answers: whoever knows its tokens says it
        "discount": 0.9,
        "decay": 0.95,
    },
    weight=critic.turns_played,
    prepare=critic.critique,
    normalise=critic.whitened_critique,
    passes=Passes(policy=1),
    critic=(64, 32),  # the released 1024, 512, scaled with a small model
    epochs=4,  # released
)
rapo = Method(
    "rapo",
    "GRPO + retention reward",
    "reward",
    Episodes(),
    reward.grpo,
    knobs={**_CLIP, "retention": 0.5},  # ours
    weight=answers,
    prepare=imitation.with_base_logprobs,
    normalise=reward.with_retention,
    advantage=centred,
    passes=Passes(base=1),
    roles="",
)
grpo_kl = Method(
    "grpo_kl",
    "GRPO + KL penalty",
    "reward",
    Episodes(),
    reward.anchored_grpo,
    knobs={**_CLIP, "coefficient": 0.1},  # RL's Razor, on MNIST
    weight=answers,
    advantage=centred,
    passes=Passes(base=1),
)

# A teacher's samples or distributions

distilled = Method(
    "distilled",
    "SFT distilled from RL",
    "near",
    Episodes(of="teacher"),
    imitation.nll,
    teacher="grpo",
)
on_policy_distillation = Method(
    "on_policy_distillation",
    "On-policy distillation",
    "near",
    Episodes(),
    distillation.on_policy_distillation,
    prepare=distillation.with_teacher_logprobs,
    passes=Passes(teacher=1),
    teacher="grpo",
)
sdft = Method(
    "sdft",
    "SDFT",
    "near",
    Episodes(demonstrated=True),
    distillation.sdft,
    passes=Passes(average=1),
    average_decay=0.98,  # an iteration; ours, not its paper's
)


def all_methods() -> dict[str, Method]:
    """By name, in the order of this file."""
    found = vars(sys.modules[__name__])
    return {name: value for name, value in found.items() if isinstance(value, Method)}


def named(name: str) -> Method:
    """The method that a config names; ValueError lists those there are."""
    known = all_methods()
    if name not in known:
        raise ValueError(f"method {name!r} must be one of {', '.join(known)}")
    return known[name]
