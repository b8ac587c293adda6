"""The laws of laws_test.py, for the losses of reinforcement learning and distillation."""

import functools
import itertools

import pytest

from rlrazor.losses.dpo import dpo
from rlrazor.losses.entropy import entropy_bonus
from rlrazor.losses.gspo import gspo
from rlrazor.losses.gspo_token import gspo_token
from rlrazor.losses.kl_estimate import kl_k2, kl_k3, kl_k3_weighted
from rlrazor.losses.on_policy_distillation import (
    exact_on_policy_distillation,
    on_policy_distillation,
)
from rlrazor.losses.ppo_clip import ppo_clip
from rlrazor.losses.ppo_clip_fallback import ppo_clip_fallback
from rlrazor.losses.psft import psft
from rlrazor.losses.reinforce import reinforce
from rlrazor.losses.sdft import sdft
from rlrazor.losses.value_loss import value_loss
from rlrazor.ops.aggregate import scaled_sum, sequence_mean, token_mean
from tests.losses import laws_test
from tests.losses.laws_test import B, Case, T, V

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LAWS = [law for name, law in vars(laws_test).items() if name.startswith("test_")]
CLIPS = {"clip_low": 0.2, "clip_high": 0.3}
PAIR = {"logprobs": (B, T), "behaviour_logprobs": (B, T)}
BASED = {"logprobs": (B, T), "base_logprobs": (B, T)}
TABLES = {"log_policy": (B, T, V), "log_teacher": (B, T, V)}
CASES = {
    "ppo_clip": Case(
        functools.partial(ppo_clip, **CLIPS, aggregate=token_mean),
        {**PAIR, "advantages": (B, T)},
        constants=("behaviour_logprobs", "advantages"),
    ),
    "ppo_clip_fallback": Case(
        functools.partial(ppo_clip_fallback, **CLIPS, fallback_above=1.8, aggregate=sequence_mean),
        {**PAIR, "advantages": (B, T)},
        constants=("behaviour_logprobs", "advantages"),
    ),
    "gspo": Case(
        functools.partial(gspo, **CLIPS),
        {**PAIR, "advantages": (B,)},
        constants=("behaviour_logprobs", "advantages"),
    ),
    "gspo_token": Case(
        functools.partial(gspo_token, **CLIPS),
        {**PAIR, "advantages": (B, T)},
        constants=("behaviour_logprobs", "advantages"),
    ),
    "reinforce": Case(
        reinforce, {"logprobs": (B, T), "advantages": (B,)}, constants=("advantages",)
    ),
    "value_loss": Case(
        functools.partial(value_loss, clip=0.5),
        {"values": (B, T), "behaviour_values": (B, T), "targets": (B, T)},
        constants=("behaviour_values", "targets"),
    ),
    "psft": Case(
        functools.partial(psft, clip_high=0.3),
        {"logprobs": (B, T), "previous_logprobs": (B, T)},
        constants=("previous_logprobs",),
    ),
    "dpo": Case(
        functools.partial(dpo, beta=0.7),
        {
            "chosen_logprobs": (B, T),
            "chosen_base_logprobs": (B, T),
            "rejected_logprobs": (B, T),
            "rejected_base_logprobs": (B, T),
        },
        masks=("chosen_mask", "rejected_mask"),
        constants=("chosen_base_logprobs", "rejected_base_logprobs"),
    ),
    "on_policy_distillation": Case(
        functools.partial(on_policy_distillation, aggregate=token_mean),
        {"logprobs": (B, T), "teacher_logprobs": (B, T)},
        constants=("teacher_logprobs",),
    ),
    "exact_on_policy_distillation": Case(
        exact_on_policy_distillation, TABLES, constants=("log_teacher",)
    ),
    "sdft": Case(
        functools.partial(sdft, aggregate=sequence_mean), TABLES, constants=("log_teacher",)
    ),
    "entropy_bonus": Case(entropy_bonus, {"log_policy": (B, T, V)}),
    "kl_k2": Case(
        functools.partial(kl_k2, aggregate=token_mean), BASED, constants=("base_logprobs",)
    ),
    "kl_k3": Case(
        functools.partial(kl_k3, aggregate=functools.partial(scaled_sum, length=4.0)),
        BASED,
        constants=("base_logprobs",),
    ),
    "kl_k3_weighted": Case(
        functools.partial(kl_k3_weighted, aggregate=token_mean),
        {**BASED, "behaviour_logprobs": (B, T)},
        constants=("base_logprobs", "behaviour_logprobs"),
    ),
}


# These compile a loss anew for every case; by default two cases stand for all. (NaN under the mask,
# a law that does not, runs for every one.)
RECOMPILE = ("padding", "repeating_the_batch", "vmapped", "traces_once")
STANDING_FOR_ALL = ("ppo_clip", "gspo_token")


def law_cases():
    for (name, case), law in itertools.product(CASES.items(), LAWS):
        law_name = law.__name__.removeprefix("test_")
        slow = law_name.startswith(RECOMPILE) and name not in STANDING_FOR_ALL
        marks = [pytest.mark.slow] if slow else []
        yield pytest.param(law, case, id=f"{law_name}-{name}", marks=marks)


@pytest.mark.parametrize(("law", "case"), list(law_cases()))
def test_law_of_losses(law, case):
    if "garbage" in law.__name__:
        for garbage in [float("nan"), float("-inf"), float("inf")]:
            law(case, garbage)
    else:
        law(case)
