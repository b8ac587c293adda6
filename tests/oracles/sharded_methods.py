"""One iteration of a method on a mesh, from drawing to update, beside the same on one device."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.methods import methods
from rlrazor.policies.language import AnswerFormat, make_language_policy
from rlrazor.runtime.mesh import make_mesh, place, shardings_of
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.studies.device import OnDevice, itself
from rlrazor.studies.programs import Given, Optimization, Setup, Sizes, initial, state_shardings
from tests.oracles import sharded, tiny_transformers, toy_policy, toy_study
from tests.oracles.toy_policy import ANSWER_TOKENS, END

SHAPE = dataclasses.replace(sharded.CONFIG, layers=1, scan_layers=True)
SPELLING = tuple(
    jnp.concatenate([jnp.asarray(x), jnp.repeat(jnp.asarray(x)[-1:], SHAPE.vocabulary - len(x), 0)])
    for x in toy_policy.SPELLING
)
ROWS, SAMPLES = 16, 2


@functools.cache
def params(seed):
    return tiny_transformers.make(SHAPE, seed)[1]


def after_one(name, mesh):
    """Metrics, and AdamW's first moments, a tenth of the clipped gradient."""
    method = methods.named(name)
    method = method.tuned(epochs=1, **({"critic": (3,)} if method.critic else {}))
    answers = AnswerFormat(make_stops([[END]]), SPELLING, ANSWER_TOKENS, 6)
    policy = make_language_policy(
        SHAPE, mesh, answers=answers, sampling=Sampling(0.8), vocabulary_chunk=4
    )
    sizes = Sizes(ROWS, 1 if method.imitates else SAMPLES, 1, 2)
    setup = Setup(policy, method, sizes, Optimization(warmup_steps=0, clip_by_global_norm=1.0))
    world = OnDevice(
        toy_study.stacked(toy_study.task(0)), expert=itself, end=END,
        anchors=toy_study.stacked(toy_study.task(2)),
    )  # fmt: skip
    at = shardings_of(params(0), policy.rules, mesh)
    base, teacher = (place(params(seed), at) for seed in (0, 1))
    given = Given(base, teacher, jnp.float32(1e-3), jnp.int32(4), jnp.int32(0))
    begin = functools.partial(initial, setup)
    whole = jax.eval_shape(begin, given, base)
    state = place(jax.device_get(begin(given, base)), state_shardings(setup, whole))
    state, metrics = world.advancing(setup, whole)(None, state, given, 0)
    moments = jax.tree.leaves(state.train.opt_state, is_leaf=lambda x: hasattr(x, "mu"))
    (mu,) = [each.mu for each in moments if hasattr(each, "mu")]
    return jax.device_get((metrics, mu))


def check(name, mesh):
    alone = make_mesh(data=1, devices=jax.devices()[:1])
    (metrics, moments), (expected, of_one) = after_one(name, mesh), after_one(name, alone)
    chex.assert_trees_all_close(metrics, expected, rtol=1e-3, atol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_one))
    assert largest > 1e-3, name
    chex.assert_trees_all_close(moments, of_one, rtol=1e-3, atol=1e-4 * largest)
