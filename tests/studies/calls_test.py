"""What a run calls, planned from shapes: for every method, whole or by adapters, on any mesh."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.api.model import base_shapes
from rlrazor.methods import methods
from rlrazor.methods.method import Demonstrations, Episodes, Pairs
from rlrazor.policies.language import Lora, make_language_policy
from rlrazor.runtime.mesh import make_mesh, on_mesh
from rlrazor.studies import host
from rlrazor.studies.calls import Asked, measuring_calls, planned, training_calls
from rlrazor.studies.host import Encoded, OnHost, Question
from rlrazor.studies.language import Base, LanguageStudy
from rlrazor.studies.programs import Optimization, Setup, Sizes
from rlrazor.tasks.protocol import Verdict
from rlrazor.types import ROWS
from tests.oracles.policies import PLAIN, SHAPE, make_policy, params_of

ASKED = Asked(prompt_buckets=(8, 4), row_buckets=(12,), at_once=4)
LORA = Lora(2, 4.0, ("layers/.*",))


def arm_of(method, *, mesh=None, lora=None):
    """Setup and shapes of a tiny arm: 4 prompts with 2 answers each, or 8 demonstrations."""
    policy = make_policy(mesh, lora=lora)
    samples = 2 if isinstance(method.source, Episodes) else 1
    setup = Setup(policy, method, Sizes(8, samples, rows_at_once=2), Optimization())
    return planned(setup, base_shapes(policy))


def shapes(tree):
    return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def sizes(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def traced(arm, calls):
    """Their names; what does not fit together raises."""
    for call in calls:
        found = jax.eval_shape(call.program, *call.arguments)
        assert set(call.reads) <= set(arm.held)
        if call.name == "learn":
            assert shapes(found[0]) == shapes(arm.state)
        yield call.name


@pytest.mark.parametrize("name", methods.all_methods())
def test_every_method_can_be_planned(name):
    method = methods.named(name)
    arm = arm_of(method, lora=LORA if name in ("dpo", "distilled") else None)
    if name == "sft_kl_prior":  # a file has no prompts of other tasks
        with pytest.raises(ValueError, match="is held to the base on prompts of other tasks"):
            [*training_calls(arm, ASKED.largest)]
        return
    sampled = not isinstance(method.source, Demonstrations | Pairs)
    expected = ["sample", "learn"] if sampled else ["learn"]
    assert [*traced(arm, training_calls(arm, ASKED.largest))] == expected


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_every_measurement_can_be_planned(lora):
    arm = arm_of(methods.sft, lora=lora)
    expected = ["answer greedily", "answer", "measure"] * len(ASKED.prompt_buckets)
    assert [*traced(arm, measuring_calls(arm, ASKED))] == expected


def test_the_base_is_always_held_and_others_where_they_are_read():
    weights = sizes(arm_of(methods.sft).given.base)
    for method in methods.all_methods().values():
        held = arm_of(method).held
        extra = {name for name in ("teacher", "average", "critic") if method.reads(name)}
        assert set(held) == {"parameters", "optimizer", "base", *extra}
        assert sizes(held["base"]) == sizes(held["parameters"]) == weights
        assert sizes(held["optimizer"]) >= 2 * weights
    held = arm_of(methods.sft, lora=LORA).held
    assert set(held) == {"adapters", "optimizer", "base"}
    assert sizes(held["adapters"]) < weights / 2


def test_arguments_that_a_program_reads_are_those_that_are_named():
    """A compiled program has no argument that it does not read; none is in memory for it."""
    teacher, grpo_kl = (arm_of(methods.named(name)) for name in ("distilled", "grpo_kl"))
    read = {
        (arm.setup.method.name, call.name): call.reads
        for arm in (teacher, grpo_kl)
        for call in training_calls(arm, ASKED.largest)
    }
    assert read == {
        ("distilled", "sample"): ("teacher",),
        ("distilled", "learn"): ("parameters", "optimizer"),
        ("grpo_kl", "sample"): ("parameters",),
        ("grpo_kl", "learn"): ("parameters", "optimizer", "base"),
    }
    assert arm_of(methods.self_sft, lora=LORA).reading("base") == ("base",)
    assert arm_of(methods.grpo, lora=LORA).reading("parameters") == ("adapters", "base")


QUESTIONS = [
    Question(
        np.arange(1, n, dtype=np.int32), str(n), n,
        conversation=Encoded(np.arange(n + 2, dtype=np.int32), np.arange(n + 2) > n),
        rejected=Encoded(np.arange(n + 1, dtype=np.int32), np.arange(n + 1) > n),
        demonstrated=np.arange(2 * n, dtype=np.int32),
    )
    for n in range(3, 8)
]  # fmt: skip


def judge(prompts, said, truths):
    return [Verdict(float(len(text)), False) for text in said]  # type: ignore[arg-type]


ON_HOST = OnHost(QUESTIONS, judge, str, ASKED.prompt_buckets, ASKED.row_buckets)


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo", "sdft"])
def test_rows_have_the_shapes_that_a_run_gives_its_programs(name, monkeypatch):
    """The run is driven with programs that compute nothing and keep what they are given."""
    method, mesh = methods.named(name), make_mesh(data=2, devices=jax.devices()[:2])
    arm = arm_of(method, mesh=mesh)
    seen = {}

    def sampling(state, given, prompts):
        seen["sample"] = prompts
        rows = jax.eval_shape(lambda *a: host.sample(arm.setup, *a), state, given, prompts)
        zero = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), rows)
        return host.global_rows(zero, mesh)

    def learning(state, given, rows):
        seen["learn"] = rows
        return state, {}

    monkeypatch.setattr(host, "learner", lambda setup, whole: learning)
    monkeypatch.setattr(host, "sampler", lambda setup: sampling)
    run = type("Run", (), {"seed": 0})()
    ON_HOST.advancing(arm.setup, arm.state)(run, arm.state, arm.given, 0)  # type: ignore[arg-type]
    asked = dataclasses.replace(ASKED, prompt_buckets=(8,))
    for call in training_calls(arm, asked):
        rows = call.arguments[2]
        mine = seen[call.name]
        assert rows.tokens.sharding == on_mesh(mesh, ROWS) == mine.tokens.sharding
        assert jax.tree.structure(rows) == jax.tree.structure(mine)
        assert shapes(rows) == shapes(mine)


def test_prompts_behind_demonstrations_have_few_lengths():
    assert ON_HOST.demonstrated_buckets == [20, 20]
    long = dataclasses.replace(QUESTIONS[0], demonstrated=np.arange(33))
    assert dataclasses.replace(ON_HOST, questions=[long]).demonstrated_buckets == [20, 33]


def measuring_bytes(policy, *, at_once, rows_at_once):
    """Of temporaries, by the compiler's own count."""
    setup = Setup(policy, methods.sft, Sizes(8, rows_at_once=rows_at_once), Optimization())
    asked = dataclasses.replace(ASKED.largest, at_once=at_once)
    calls = measuring_calls(planned(setup, base_shapes(policy)), asked)
    (measure,) = (call for call in calls if call.name == "measure")
    compiled = measure.program.lower(*measure.arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes, measure.tokens


def test_measuring_takes_memory_for_rows_at_once_and_not_for_every_test():
    vocabulary = 4096
    policy = make_language_policy(
        dataclasses.replace(SHAPE, vocabulary=vocabulary), make_mesh(data=1),
        answers=make_policy().answers, sampling=PLAIN, vocabulary_chunk=2,
    )  # fmt: skip
    few, tokens = measuring_bytes(policy, at_once=8, rows_at_once=2)
    many, _ = measuring_bytes(policy, at_once=64, rows_at_once=2)
    logits = vocabulary * 4 * tokens  # of one row
    assert many - few < 56 * logits / 50
    wider, _ = measuring_bytes(policy, at_once=64, rows_at_once=8)
    assert wider > many + 6 * vocabulary * 4 * 2


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_policy_is_measured_where_it_lies(lora):
    """A copy of it for the time of measuring would be one model more than is planned."""
    policy, params = make_policy(lora=lora), jax.tree.map(jnp.asarray, params_of())
    base = Base("tiny", policy, params)
    study = types.SimpleNamespace(base=base, bases={0: base})
    trained = policy.initial(params, jax.random.key(0))
    found = LanguageStudy.policy(study, trained, 0)  # type: ignore[arg-type]
    leaves = {id(leaf) for leaf in jax.tree.leaves(found)}
    assert {id(leaf) for leaf in jax.tree.leaves(params)} <= leaves
