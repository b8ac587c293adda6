"""The laws of a mesh: what is spread over devices is what one device computes."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.losses.nll import nll
from rlrazor.models.cache import init_cache
from rlrazor.models.partition import CACHE_RULES, transformer_rules
from rlrazor.models.scoring import over_vocabulary
from rlrazor.models.transformer import Transformer
from rlrazor.ops.kl import kl
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.runtime.mesh import (
    compile_once,
    cut_rows,
    for_decoding,
    in_turn,
    layout,
    make_mesh,
    on_mesh,
    place,
    shardings_of,
)
from rlrazor.sampling.decode import Sampling, decode, make_stops
from rlrazor.training.optimizer import adamw
from rlrazor.training.parts import Parts
from rlrazor.training.state import init_state
from rlrazor.training.step import make_train_step
from rlrazor.types import ROWS
from tests.oracles.tiny_transformers import FULL, make

# Divides over as many as eight devices whichever axis has them; a key head serves two.
CONFIG = dataclasses.replace(
    FULL, vocabulary=32, width=16, heads=16, kv_heads=8, head_dim=2, mlp_width=24, remat="full"
)
B, T, NEW = 16, 7, 5
RNG = np.random.default_rng(1)
TOKENS = RNG.integers(0, CONFIG.vocabulary, (B, T)).astype(np.int32)
MASK = RNG.random((B, T)) < 0.5
MASK[:5] = False  # parts with few tokens to learn, and with many
RATE = 1e-2
TX = adamw(lambda step: RATE, weight_decay=0.1, clip_by_global_norm=0.5)
SIZE = 3  # tokens of a row whose logits are in memory; does not divide T


def hidden_states(model, params, tokens):
    return model.apply(params, tokens)[0]


def train_step(model, parts=None, size=SIZE):
    def loss(params, batch, key):
        tokens, mask = batch
        hidden = hidden_states(model, params, tokens)[:, :-1]
        logprobs = over_vocabulary(
            token_logprobs, model, [(params, hidden)], tokens[:, 1:], size=size
        )
        return nll(logprobs, mask[:, 1:])

    return make_train_step(loss, TX, parts)


def divergence(model, p_params, q_params, tokens):  # f32[B, T] KL(p || q)
    states = [(params, hidden_states(model, params, tokens)) for params in (p_params, q_params)]

    def between(p, q):
        return kl(jax.nn.log_softmax(p), jax.nn.log_softmax(q))

    return over_vocabulary(between, model, states, size=SIZE)


def sample(model, params, tokens, keys, lay_cache, new=NEW):
    B, T = tokens.shape

    def append(cache, tokens, count):
        hidden, cache = model.apply(params, tokens, cache=cache, count=count)
        last = jnp.maximum(count - 1, 0)[:, None, None]
        newest = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
        return model.apply(params, newest, method="logits"), cache

    cache = lay_cache(init_cache(model.config, B, T + new, model.config.compute_dtype))
    logits, cache = append(cache, tokens, jnp.arange(B) % T + 1)  # prompts of any length
    drawn = decode(
        append, cache, logits, keys, jnp.ones(B, bool), Sampling(), make_stops([[3]]), size=new
    )
    return drawn.tokens, drawn.length, drawn.behaviour_logprobs


def in_two(rules, mesh):
    """Parts of which each is shared by all devices."""
    return Parts(
        2,
        weight=lambda batch: jnp.sum(batch[1][:, 1:]),
        add_up=functools.partial(in_turn, rules=rules, mesh=mesh),
        cut=functools.partial(cut_rows, mesh=mesh),
    )


def spread_sample(model, rules, mesh, params, tokens, keys, new=NEW):
    def lay(cache):
        return jax.lax.with_sharding_constraint(cache, shardings_of(cache, CACHE_RULES, mesh))

    params = for_decoding(params, rules, mesh, model.config.compute_dtype)
    return sample(model, params, tokens, keys, lay, new)


def run(fn, *arguments, **options):
    """Compiled without optimising, which takes most of these tests' time."""
    lowered = compile_once(fn, **options).lower(*arguments)
    return lowered.compile({"xla_backend_optimization_level": 0})(*arguments)


@functools.cache
def arguments(tied):
    config = dataclasses.replace(CONFIG, tied_head=tied)
    _, params = make(config)
    _, other = make(config, seed=1)
    state = init_state(params, TX, jax.random.key(0))
    return config, state, other, jax.random.split(jax.random.key(1), B)


@functools.cache
def expected(tied):
    config, state, other, keys = arguments(tied)
    model = Transformer(config)
    draw = functools.partial(sample, model, lay_cache=lambda cache: cache)
    return (
        run(train_step(model), state, (TOKENS, MASK)),
        run(draw, state.params, TOKENS, keys),
        run(functools.partial(divergence, model), state.params, other, TOKENS),
    )


def check(*, tied, **sizes):
    """Training in parts, sampling and KL on a mesh of these sizes, against one device."""
    config, state, other, keys = arguments(tied)
    mesh, rules = make_mesh(**sizes), transformer_rules(config)
    model = Transformer(config, layout(mesh, rules))
    rows, lie = on_mesh(mesh, ROWS), shardings_of(state, rules, mesh)
    state, other = place((state, other), (lie, lie.params))
    tokens, mask, keys = place((TOKENS, MASK, keys), rows)
    (trained, metrics), drawn, divergences = expected(tied)

    step = train_step(model, in_two(rules, mesh))
    found, found_metrics = run(step, state, (tokens, mask), out=(lie, on_mesh(mesh)))
    chex.assert_trees_all_close(found_metrics, metrics, rtol=1e-5)
    chex.assert_trees_all_close(found.opt_state, trained.opt_state, rtol=1e-4, atol=1e-7)
    # Adam moves by the rate whatever the gradient's size, so also where that is rounding alone.
    chex.assert_trees_all_close(found.params, trained.params, atol=2.1 * RATE)
    settled = jax.tree.map(
        lambda mu, one, two: np.where(np.abs(mu) > 1e-6, one - two, 0),
        trained.opt_state[1][0].mu, found.params, trained.params,
    )  # fmt: skip
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(settled)) < 1e-5
    assert jax.tree.map(lambda leaf: leaf.sharding, found) == lie

    draw = functools.partial(spread_sample, model, rules, mesh)
    found = run(draw, state.params, tokens, keys, out=rows)
    for one, two in zip(found[:2], drawn[:2], strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(found[2], drawn[2], atol=1e-4)

    found = run(functools.partial(divergence, model), state.params, other, tokens)
    np.testing.assert_allclose(found, divergences, rtol=1e-4, atol=1e-5)
