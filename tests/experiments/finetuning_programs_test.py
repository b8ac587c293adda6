"""The programs of fine-tuning on small meshes: what is drawn, scored and learnt is the same."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.finetune import get_config
from experiments.finetuning.programs import Prompts, Rows, build
from experiments.finetuning.settings import check, knobs_for, optimizer_for
from rlrazor.models.partition import transformer_rules
from rlrazor.models.transformer import Transformer
from rlrazor.ops.kl import kl
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.runtime.mesh import make_mesh, on_mesh, place, shardings_of
from rlrazor.sampling.decode import make_stops
from tests.oracles import tiny_transformers
from tests.oracles.tiny_checkpoints import QWEN2

pytestmark = pytest.mark.usefixtures("quick_compiles")

SHAPE = dataclasses.replace(QWEN2, vocabulary=24, layers=1)
MESHES = {"one": (1, 1, 1), "fsdp": (1, 4, 1), "tensor": (1, 2, 2), "data": (2, 2, 1)}
STOP = 3
P, T, N, G = 2, 6, 5, 4


def tiny_config(**changes):
    config = get_config("grpo")
    config.prompts, config.samples, config.answer_tokens, config.rows = P, G, N, 8
    config.compute_dtype = "float32"
    config.vocabulary_chunk, config.rows_at_once = 3, 1
    config.learning_rate, config.warmup_steps = 1e-2, 1
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    return config


@functools.cache
def params():
    return tiny_transformers.make(SHAPE)[1]


@functools.cache
def built(name="one", **changes):
    config = tiny_config(**changes)
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), MESHES[name], strict=True)),
                     devices=jax.devices()[: np.prod(MESHES[name])])  # fmt: skip
    stops, knobs = make_stops([[STOP]]), knobs_for(config, mesh)
    programs = build(SHAPE, optimizer_for(config), stops, knobs, mesh)
    held = place(params(), shardings_of(params(), transformer_rules(SHAPE), mesh))
    return programs, held, mesh


def prompts(mesh, seed=0):
    rng = np.random.default_rng(seed)
    tokens, count = rng.integers(4, 24, (P, T)).astype(np.int32), np.array([T, 3], np.int32)
    tokens[1, 3:] = 0
    return place(Prompts(jnp.asarray(tokens), jnp.asarray(count)), on_mesh(mesh))


@functools.cache
def drawn(name="one", **changes):
    programs, held, mesh = built(name, **changes)
    return programs.sample(held, prompts(mesh), jax.random.key(0), jnp.float32(1.0))


def rows(count=8, size=9, seed=1):
    rng = np.random.default_rng(seed)
    length = rng.integers(4, size + 1, count).astype(np.int32)
    place_ = np.arange(size)[None]
    mask = (place_ < length[:, None]) & (place_ >= 2)
    tokens = np.where(place_ < length[:, None], rng.integers(0, 24, (count, size)), 0)
    return Rows(jnp.asarray(tokens, jnp.int32), jnp.asarray(length), jnp.asarray(mask))


def logits_of(weights, tokens):
    model = Transformer(SHAPE)
    return model.apply(weights, model.apply(weights, tokens)[0], method="logits")


def test_answers_stand_behind_their_prompts():
    answers, asked = drawn(), prompts(built()[2])
    for row in range(P * G):
        count, start = int(answers.count[row]), int(asked.count[row // G])
        np.testing.assert_array_equal(
            answers.tokens[row, :start], asked.tokens[row // G, :start], strict=True
        )
        expected = (np.arange(T + N) >= start) & (np.arange(T + N) < count)
        np.testing.assert_array_equal(answers.mask[row], expected)
        assert 1 <= count - start <= N
        said = answers.tokens[row, start:count]
        assert bool(answers.stopped[row]) == (said[-1] == STOP)
        assert STOP not in said[:-1]
    assert len({tuple(row) for row in np.asarray(answers.tokens)}) > P


def test_sampled_log_probabilities_are_those_of_the_scoring_pass():
    answers = drawn()
    scored = token_logprobs(logits_of(params(), answers.tokens)[:, :-1], answers.tokens[:, 1:])
    scored = jnp.where(answers.mask[:, 1:], scored, 0.0)
    np.testing.assert_allclose(answers.behaviour_logprobs[:, 1:], scored, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["tensor", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fsdp", "data"))]
)
def test_a_mesh_changes_nothing(name):
    """Answers, losses and distances are those of one device."""
    for a, b in zip(*map(jax.tree.leaves, (drawn(), drawn(name))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    found = []
    for which in ("one", name):
        programs, held, _ = built(which)
        state = programs.initial(held, jax.random.key(1))
        state, sft = programs.imitate(state, None, place(rows(), programs.rows_at))
        rewards = place(jnp.arange(8.0) % 3, programs.rows_at)
        state, rl = programs.reinforce(state, None, drawn(which), rewards)
        apart = programs.measure(state.params, held, place(rows(), programs.rows_at))
        found.append(jax.device_get((sft, rl, apart)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


def test_parts_of_a_batch_change_nothing():
    found = []
    for at_once in (1, 8):
        programs, held, _ = built(rows_at_once=at_once)
        _state, metrics = programs.imitate(programs.initial(held, jax.random.key(1)), None, rows())
        found.append(metrics)
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)


def test_distances_are_those_of_whole_distributions():
    programs, held, _ = built()
    other = jax.tree.map(lambda leaf: leaf * 1.1, params())
    batch = rows()
    sums = programs.measure(other, held, batch)
    log_policy, log_base = (
        jax.nn.log_softmax(logits_of(weights, batch.tokens)[:, :-1])
        for weights in (other, params())
    )
    mask = np.asarray(batch.mask[:, 1:])
    expected = {
        "kl_base_policy_nats": kl(log_base, log_policy),
        "kl_policy_base_nats": kl(log_policy, log_base),
        "entropy_nats": -jnp.sum(jnp.exp(log_policy) * log_policy, axis=-1),
        "nll_nats": -token_logprobs(log_policy, batch.tokens[:, 1:]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], np.sum(np.asarray(value)[mask]), rtol=1e-4)
    assert sums["tokens"] == mask.sum()
    assert sums["answers"] == len(mask)


def test_imitation_learns_what_it_is_shown():
    programs, held, _ = built()
    state, losses = programs.initial(held, jax.random.key(1)), []
    for _ in range(30):
        state, metrics = programs.imitate(state, None, rows())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_reinforcement_learns_what_is_rewarded():
    """The reward of an answer is whether it begins with one token of 24."""
    programs, held, mesh = built()
    state, shares = programs.initial(held, jax.random.key(1)), []
    for number in range(60):
        key = jax.random.fold_in(jax.random.key(5), number)
        answers = programs.sample(state.params, prompts(mesh), key, jnp.float32(1.0))
        first = np.argmax(np.asarray(answers.mask), axis=1)
        said = np.asarray(answers.tokens)[np.arange(P * G), first]
        rewards = jnp.asarray(said % 4 == 1, jnp.float32)
        state, metrics = programs.reinforce(state, None, answers, rewards)
        shares.append(float(metrics["reward"]))
    assert np.mean(shares[-10:]) > np.mean(shares[:10]) + 0.3


def test_equal_rewards_teach_nothing():
    programs, held, _ = built()
    state = programs.initial(held, jax.random.key(1))
    state, metrics = programs.reinforce(state, None, drawn(), jnp.ones(P * G))
    assert metrics["groups_alike"] == 1
    for before, after in zip(*map(jax.tree.leaves, (params(), state.params)), strict=True):
        np.testing.assert_array_equal(before, after)


@functools.cache
def adapted(name):
    """Losses of three steps of adapters alone, and the policy before and after them."""
    programs, held, _ = built(name, **{"lora.rank": 4, "lora.alpha": 8.0})
    state = programs.initial(held, jax.random.key(1))
    before, losses = programs.policy(state.params, held), []
    for _ in range(3):
        state, metrics = programs.imitate(state, held, place(rows(), programs.rows_at))
        losses.append(float(metrics["loss"]))
    rewards = place(jnp.arange(8.0) % 3, programs.rows_at)
    state, _ = programs.reinforce(state, held, drawn(name), rewards)
    return losses, jax.device_get((before, programs.policy(state.params, held)))


def test_adapters_begin_as_the_base_and_learn():
    losses, (before, after) = adapted("one")
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(params()))
    assert losses[-1] < losses[0]
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/"): not np.array_equal(a, b)
        for (path, a), b in zip(
            jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
        )
    }
    assert {name for name, did in changed.items() if did} == {
        name for name in changed if name.endswith("/kernel")
    }


@pytest.mark.slow
def test_adapters_learn_alike_on_a_mesh():
    for one, other in zip(*map(jax.tree.leaves, (adapted("one"), adapted("tensor"))), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_masters_keep_what_bf16_would_lose():
    """At a rate too small to move a bf16 parameter in one step."""
    moved = []
    for masters in (True, False):
        config = tiny_config(learning_rate=1e-5, masters=masters)
        tx = optimizer_for(config)
        params = {"w": jnp.ones(4, jnp.bfloat16)}
        state = tx.init(params)
        for _ in range(400):
            updates, state = tx.update({"w": jnp.ones(4)}, state, params)
            params = optax.apply_updates(params, updates)
        moved.append(float(params["w"][0]) < 1)
    assert moved == [True, False]


def test_greedy_answers_do_not_depend_on_the_key():
    programs, held, mesh = built()
    asked = prompts(mesh)
    first, second = (
        programs.answer(held, asked, jax.random.key(k), jnp.float32(0.0)) for k in (0, 1)
    )
    np.testing.assert_array_equal(first.tokens, second.tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 3, "samples": 1}, r"config.prompts x samples=3 must be a multiple of the 4"),
        ({"method": "sft", "rows": 6}, r"config.rows=6 must be a multiple of the 4 devices"),
    ],
)
def test_rows_that_devices_cannot_share_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        knobs_for(tiny_config(**changes), make_mesh(data=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_tokens": 0}, r"config.answer_tokens=0 must be above 0"),
        ({"temperature": float("nan")}, r"config.temperature=nan must be above 0"),
        ({"row_buckets": ()}, r"config.row_buckets=\(\) must be one or more lengths"),
        ({"method": "ppo"}, r"config.method='ppo' must be sft or grpo"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check(tiny_config(**changes))
