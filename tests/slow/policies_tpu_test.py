"""What a language policy reads and plays on a TPU v5e of eight chips that is not there."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from experiments.planning.hlo import collectives_of
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.policies.language import AnswerFormat, Lora, make_language_policy
from rlrazor.runtime.mesh import (
    AXES,
    add_up,
    compile_once,
    make_mesh,
    on_mesh,
    shapes_at,
    shardings_of,
)
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.sampling.prompts import PromptTask
from rlrazor.types import ROWS, Rows
from tests.oracles.topology import COLLECTIVE, NEEDS_TPU_COMPILER

pytestmark = NEEDS_TPU_COMPILER

CONFIG = TransformerConfig(
    vocabulary=4096, width=256, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=512,
    tied_head=True, qkv_bias=True, compute_dtype="bfloat16", remat="full", attention="auto",
)  # fmt: skip
P, G, PROMPT, ANSWER = 8, 4, 128, 64
B, T = P * G, PROMPT + ANSWER
CHUNK = 16
REPLICATED, SHARDED = (8, 1, 1), (1, 4, 2)


def make(topology, sizes, *, attention="auto", lora=None):
    data, fsdp, tensor = sizes
    mesh = make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=list(topology.devices.flat))
    V = CONFIG.vocabulary
    spelling = jnp.zeros((V, 1), jnp.uint8), jnp.ones(V, jnp.int32)
    answers = AnswerFormat(make_stops([[2]]), spelling, ANSWER, ANSWER, (5,))
    return make_language_policy(
        dataclasses.replace(CONFIG, attention=attention),
        mesh,
        answers=answers,
        sampling=Sampling(0.7, 20, 0.9),
        vocabulary_chunk=CHUNK,
        lora=lora,
    )


def params_on(policy):
    init = Transformer(CONFIG).init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    return shapes_at(shapes, shardings_of(shapes, policy.rules, policy.mesh))


def rows_on(policy):
    def rows():
        count = jnp.zeros(B, jnp.int32)
        tokens, mask = jnp.zeros((B, T), jnp.int32), jnp.zeros((B, T), bool)
        behaviour = jnp.zeros((B, T))
        return Rows(
            tokens, count, mask, prompt_count=count, behaviour_logprobs=behaviour,
            prompt_size=PROMPT, samples=G,
        )  # fmt: skip

    return shapes_at(jax.eval_shape(rows), on_mesh(policy.mesh, ROWS))


def loss(policy, params, rows):
    found = policy.logprobs(policy.read(params, rows)) - rows.behaviour_logprobs
    return jnp.sum(jnp.where(rows.mask, jnp.exp(found), 0.0))


def never_whole(text):
    """No array has the logits of all scored tokens of all rows of a device."""
    for rows in (B, B // 8, B // 4):
        for vocabulary in (CONFIG.vocabulary, CONFIG.vocabulary // 2):
            assert f"[{rows},{ANSWER},{vocabulary}]" not in text


@pytest.mark.parametrize("attention", ["auto", "einsum"])
def test_reading_replicated(mesh, attention, monkeypatch):
    """Whole rows by splash, or prompts once by plain products; only gradients are exchanged."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")  # as it would be there
    policy = make(mesh, REPLICATED, attention=attention)

    def gradient(params, rows):
        parts = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), rows)
        of_part = jax.grad(lambda p, part: loss(policy, p, part))
        return add_up(of_part, policy.mesh)(params, parts)

    compiled = compile_once(gradient).lower(params_on(policy), rows_on(policy)).compile()
    text = compiled.as_text()
    assert ("tpu_custom_call" in text) == (attention == "auto")
    never_whole(text)
    assert {one.kind for one in collectives_of(text)} == {"all-reduce"}
    assert max(one.times for one in collectives_of(text)) == 1


@pytest.mark.parametrize("lora", [None, Lora(8, 16.0, ("layers/.*",))], ids=["all", "adapters"])
def test_reading_sharded(mesh, lora):
    policy = make(mesh, SHARDED, lora=lora)
    base = params_on(policy)
    trained = base
    if lora:
        trained = jax.eval_shape(lambda: policy.initial(base, jax.random.key(0)))
        trained = shapes_at(trained, shardings_of(trained, policy.rules, policy.mesh))

    def gradient(trained, base, rows):
        return jax.grad(lambda t: loss(policy, policy.assemble(t, base), rows))(trained)

    at = jax.tree.map(lambda leaf: leaf.sharding, trained)
    program = compile_once(gradient, out=at).lower(trained, base, rows_on(policy))
    text = program.compile().as_text()
    assert "tpu_custom_call" in text
    never_whole(text)
    # The head is gathered once, and not once a chunk of tokens.
    table = CONFIG.vocabulary // 2 * CONFIG.width
    gathers = [c for c in collectives_of(text) if c.kind == "all-gather" and c.bytes > table]
    assert all(one.times <= 2 for one in gathers)


@pytest.mark.parametrize(
    ("sizes", "prompts", "samples"),
    [(REPLICATED, P, G), (REPLICATED, 2, 4), (SHARDED, P, G), (SHARDED, 2, 4), (SHARDED, 3, 1)],
)
def test_playing(mesh, sizes, prompts, samples):
    """Replicated, no chip waits for another; sharded, parameters travel before the first token."""
    policy, task = make(mesh, sizes), PromptTask()

    def answer(params, tokens, count, keys):
        dealt = task.deal(tokens, count)
        return policy.play(params, task, dealt, keys, Sampling(0.7), turns=1, samples=samples)

    def asked():
        keys = jax.random.split(jax.random.key(0), prompts)
        return jnp.zeros((prompts, PROMPT), jnp.int32), jnp.ones(prompts, jnp.int32), keys

    given = shapes_at(jax.eval_shape(asked), on_mesh(policy.mesh))
    out = on_mesh(policy.mesh, AXES if policy.replicated else ROWS)
    if prompts * samples % 8:
        out = on_mesh(policy.mesh)
    text = compile_once(answer, out=out).lower(params_on(policy), *given).compile().as_text()
    if policy.replicated:
        assert not COLLECTIVE.search(text)
        return
    found = collectives_of(text)
    rows = -(-prompts * samples // 4)
    # In the loop travel activations of a token, and its logits over `tensor`.
    most = 4 * rows * CONFIG.vocabulary
    assert max(one.bytes for one in found if one.times >= ANSWER) <= most
