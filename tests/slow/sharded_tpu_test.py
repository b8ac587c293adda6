"""Training and sampling on a TPU v5e of eight chips that is not there: what travels, and when."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from experiments.planning.hlo import collectives_of
from rlrazor.models.partition import transformer_rules
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.mesh import compile_once, layout, make_mesh, on_mesh, shapes_at, shardings_of
from rlrazor.training.state import init_state
from rlrazor.types import ROWS
from tests.oracles import sharded
from tests.oracles.topology import NEEDS_TPU_COMPILER

pytestmark = NEEDS_TPU_COMPILER

CONFIG = TransformerConfig(
    vocabulary=4096, width=256, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=512,
    tied_head=True, qkv_bias=True, compute_dtype="bfloat16", remat="full", attention="auto",
)  # fmt: skip
B, T, NEW, PARTS, FSDP, TENSOR = 16, 256, 32, 2, 4, 2
RULES = transformer_rules(CONFIG)
# Of the vocabulary's matrix, the part of a device of `tensor`.
TABLE = CONFIG.vocabulary // TENSOR * CONFIG.width


@pytest.fixture(scope="module")
def cut(mesh):
    return make_mesh(data=1, fsdp=FSDP, tensor=TENSOR, devices=list(mesh.devices.flat))


@pytest.fixture(scope="module")
def given(cut):
    """The state, and what lies by rows."""

    def initial(key):
        params = Transformer(CONFIG).init(key, jnp.zeros((1, 2), jnp.int32))
        return init_state(params, sharded.TX, key)

    def by_rows():
        keys = jax.random.split(jax.random.key(0), B)
        return jnp.zeros((B, T), jnp.int32), jnp.zeros((B, T), bool), keys

    state, rows = jax.eval_shape(initial, jax.random.key(0)), jax.eval_shape(by_rows)
    return shapes_at(state, shardings_of(state, RULES, cut)), *shapes_at(rows, on_mesh(cut, ROWS))


def model_on(mesh, **change):
    return Transformer(dataclasses.replace(CONFIG, **change), layout(mesh, RULES))


def times(found, kind, size):
    """How often each exchange of this kind and of so many bytes happens."""
    return [one.times for one in found if (one.kind, one.bytes) == (kind, size)]


def test_a_training_step(cut, given):
    state, tokens, mask, _ = given
    lie = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = sharded.train_step(model_on(cut), sharded.in_two(RULES, cut), size=64)
    program = compile_once(step, donate=(0,), out=(lie, on_mesh(cut)))
    text = program.lower(state, (tokens, mask)).compile().as_text()
    assert "tpu_custom_call" in text  # splash attention
    assert "input_output_alias" in text
    for whole in (f"[{B},{T},", f"[{B // 2},{T},", f"[{B // 2 // FSDP},{T},"):
        for vocabulary in (CONFIG.vocabulary, CONFIG.vocabulary // TENSOR):
            assert f"{whole}{vocabulary}]" not in text
    found = collectives_of(text)
    # The head is gathered in bf16, and its gradient in f32 is scattered, once a part, and not once
    # a chunk of tokens.
    others = (FSDP - 1) / FSDP
    assert times(found, "all-gather", 2 * TABLE * others) == [PARTS]
    assert times(found, "reduce-scatter", 4 * TABLE * others) == [PARTS]
    # Layers: sums over `tensor`, and parameters gathered and gradients scattered over `fsdp`.
    every_layer = {c.devices for c in found if c.times == PARTS * CONFIG.layers}
    assert {TENSOR, FSDP} <= every_layer


def test_sampling(cut, given):
    """Parameters are gathered before the first token; after it, activations travel alone."""
    state, tokens, _, keys = given
    draw = functools.partial(sharded.spread_sample, model_on(cut), RULES, cut, new=NEW)
    program = compile_once(draw, out=on_mesh(cut, ROWS))
    compiled = program.lower(state.params, tokens, keys).compile()
    found = collectives_of(compiled.as_text())
    assert times(found, "all-gather", 2 * TABLE * (FSDP - 1) / FSDP) == [1]
    activations = 2 * B // FSDP * CONFIG.width * 2  # a sum of bf16 [B, 1, D]
    assert max(c.bytes for c in found if c.times >= NEW) <= activations
    assert any(c.times == NEW * CONFIG.layers for c in found)
    # One cache of keys and values, updated in place.
    cache = 2 * CONFIG.layers * B // FSDP * CONFIG.kv_heads // TENSOR * (T + NEW) * 64 * 2
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) * 2 // TENSOR
    scores = B // FSDP * CONFIG.heads // TENSOR * T * (T + NEW) * 4
    memory = compiled.memory_analysis().temp_size_in_bytes
    assert memory < parameters + 2 * cache + 3 * scores


@pytest.mark.parametrize("head_dim", [64, 128])
def test_splash_compiles_for_every_head(cut, head_dim):
    """Rows that fill no block, with their gradient."""
    model = model_on(cut, head_dim=head_dim, attention="splash")
    rows = on_mesh(cut, ROWS)
    init = Transformer(model.config).init
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    params = shapes_at(params, shardings_of(params, RULES, cut))
    tokens = shapes_at(jax.ShapeDtypeStruct((4, 200), jnp.int32), rows)

    def loss(params, tokens):
        return jnp.sum(model.apply(params, tokens)[0].astype(jnp.float32))

    program = compile_once(jax.grad(loss))
    assert "tpu_custom_call" in program.lower(params, tokens).compile().as_text()
