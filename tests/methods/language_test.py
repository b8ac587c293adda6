"""Every method reads a language model as it reads the same model given as plain functions."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.methods import methods, sources
from rlrazor.methods.method import Episodes, Pairs, Reads
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.models.value_head import ValueHead
from rlrazor.policies.function import FunctionPolicy
from rlrazor.runtime.mesh import make_mesh
from rlrazor.sampling.decode import Sampling, make_stops
from tests.oracles import tiny_transformers, toy_policy
from tests.oracles.tiny_transformers import quick
from tests.oracles.toy_policy import ANSWER_TOKENS, END, SPELLING, V

language = pytest.importorskip("rlrazor.policies.language")

SHAPE = TransformerConfig(
    vocabulary=V, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_width=8, tied_head=True,
    scan_layers=False,
)  # fmt: skip
TASK, TEACHER = toy_policy.Sums(jnp.int32(2)), toy_policy.Teacher()
KEYS = jax.random.split(jax.random.key(0), 4)
SAMPLING, STOPS = Sampling(0.8), make_stops([[END]])
QUICK = ("ppo", "grpo_kl", "sdft")


@functools.cache
def params(seed):
    return tiny_transformers.make(SHAPE, seed)[1]


def as_functions():
    model, _ = tiny_transformers.make(SHAPE)
    return FunctionPolicy(
        lambda params, states: model.apply(params, states, method="logits"),
        hidden=lambda params, tokens: model.apply(params, tokens)[0],
        width=SHAPE.width, answer_tokens=ANSWER_TOKENS, stops=STOPS, spelling=SPELLING,
        answer_bytes=6, sampling=SAMPLING,
    )  # fmt: skip


def as_language():
    answers = language.AnswerFormat(STOPS, SPELLING, ANSWER_TOKENS, 6)
    return language.make_language_policy(
        SHAPE, make_mesh(data=1), answers=answers, sampling=SAMPLING, vocabulary_chunk=3
    )


def rows_of(policy, method):
    """Drawn by the policy that begins the iteration, or by the expert."""
    states = sources.deal(method.source, TASK, KEYS)
    if not isinstance(method.source, Episodes):
        given = sources.pairs if isinstance(method.source, Pairs) else sources.demonstrations
        rows = given(TASK, TEACHER, states, KEYS, end=END)
        return dataclasses.replace(rows, anchor=rows if method.anchored else None)
    played = policy.play(params(0), TASK, states, KEYS, SAMPLING, turns=2, samples=4)
    rows = sources.rows_of(played)
    if method.source.demonstrated:
        rows = sources.demonstrated(TASK, TEACHER, played.dealt, KEYS, rows, end=END)
    return sources.with_advantages(method, sources.kept(rows, method.source.keep))


def learnt(policy, method):
    """Loss, metrics and gradient of a policy that has moved since the rows were prepared."""
    critic = None
    if method.critic:
        head, states = ValueHead(method.critic), jnp.zeros((1, 1, policy.width))
        critic = head.init(jax.random.key(1), states)

    @quick
    def run(moved):
        reads = Reads(params(1), params(2), params(3), critic)
        rows = method.prepared(policy, params(0), reads, rows_of(policy, method))
        loss = functools.partial(method.loss, policy)
        return jax.value_and_grad(lambda p: loss(p, reads, rows), has_aux=True)(moved)

    return jax.device_get(run(jax.tree.map(lambda a, b: a + 0.05 * b, params(0), params(4))))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in methods.all_methods()],
)
def test_a_language_model_learns_as_its_functions_do(name):
    method = methods.named(name)
    (loss, metrics), gradient = learnt(as_language(), method)
    (expected, of_functions), slow = learnt(as_functions(), method)
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(metrics, of_functions, rtol=1e-4)
    chex.assert_trees_all_close(gradient, slow, rtol=1e-3, atol=1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(slow)) > 1e-3
