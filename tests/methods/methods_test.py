"""The methods as values: what planning, FLOPs and analysis know of each, and how they are tuned."""

import pytest

from configs.sft_memorizes_gp_l import METHODS as STUDIED
from rlrazor.lines import FAMILIES, ROLES
from rlrazor.methods import methods
from rlrazor.methods.method import Demonstrations, Episodes, Pairs

ALL = methods.all_methods()


def test_every_studied_method_is_there_by_its_name():
    assert set(ALL) == set(STUDIED)
    for name, method in ALL.items():
        assert method.name == name
        assert methods.named(name) is method


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"method 'GRPO' must be one of sft, dft, psft, .*, sdft"):
        methods.named("GRPO")
    with pytest.raises(ValueError, match="must be one of"):
        methods.named("answers")  # a name of the module that is no method


def test_labels_tell_methods_apart_and_families_and_roles_are_the_reports():
    assert len({method.label for method in ALL.values()}) == len(ALL)
    for method in ALL.values():
        assert method.family in FAMILIES
        assert method.roles is None or set(method.roles.split()) <= set(ROLES)


def test_families_say_whose_answers_are_learnt_from():
    for method in ALL.values():
        if method.family == "outside":
            assert isinstance(method.source, Demonstrations | Pairs)
        else:
            assert isinstance(method.source, Episodes)


def test_reads_say_whose_weights_must_be_in_memory():
    found = {
        reader: {name for name, method in ALL.items() if method.reads(reader)}
        for reader in ("base", "teacher", "average", "critic")
    }
    assert found == {
        "base": {"sft_kl_base_policy", "sft_kl_prior", "dpo", "self_sft", "grpo_kl", "rapo"},
        "teacher": {"distilled", "on_policy_distillation"},
        "average": {"sdft"},
        "critic": {"ppo"},
    }
    assert {name for name, method in ALL.items() if method.teacher} == found["teacher"]


def test_tuning_makes_another_value():
    tuned = methods.ppo.tuned(clip=0.2, critic=(4,), epochs=2)
    assert (tuned.knobs["clip"], tuned.critic, tuned.epochs) == (0.2, (4,), 2)
    assert (methods.ppo.knobs["clip"], methods.ppo.critic, methods.ppo.epochs) == (0.1, (64, 32), 4)
    assert methods.sdft.tuned(average_decay=0.5).average_decay == 0.5
    assert tuned.knobs.keys() == methods.ppo.knobs.keys()


@pytest.mark.parametrize(
    ("name", "knob", "known"),
    [("grpo", "clip", "clip_high, clip_low, epochs"), ("sft", "average_decay", "epochs"),
     ("sdft", "critic", "average_decay, epochs")],
)  # fmt: skip
def test_a_knob_that_a_method_lacks_is_named(name, knob, known):
    with pytest.raises(ValueError, match=f"{name} has no knob '{knob}'; it has {known}$"):
        methods.named(name).tuned(**{knob: 1})
