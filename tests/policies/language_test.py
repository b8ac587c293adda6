"""The language policy against a slow twin: uncached, all logits, NumPy in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.ops.kl import kl
from rlrazor.policies.policy import Policy
from rlrazor.runtime.mesh import add_up, compile_once, make_mesh, place, shardings_of
from rlrazor.sampling.decode import Sampling
from rlrazor.sampling.episodes import deal
from rlrazor.sampling.prompts import PromptTask
from rlrazor.types import Rows
from tests.oracles import policies
from tests.oracles.eight_devices import lines_of
from tests.oracles.policies import SHAPE, TASK, make_policy, params_of, played, rows_of, twin
from tests.oracles.tiny_transformers import quick

P, G = 4, 4
SETTINGS = [
    Sampling(),
    Sampling(0.5),
    Sampling(2.0, 5),
    Sampling(1.0, 0, 0.7),
    Sampling(0.7, 7, 0.8),
    Sampling(0.0),
]
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(64, 64)).astype(np.float32)


def score(policy, params, rows):
    return quick(lambda p, rows: policy.logprobs(policy.read(p, rows)))(params, rows)


def on(*sizes):
    return make_mesh(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))


def test_it_is_a_policy():
    policy: Policy = make_policy()
    assert (policy.width, policy.replicated) == (SHAPE.width, True)


# Scoring.


@pytest.mark.parametrize("chunk", [3, 64])
@pytest.mark.parametrize("grouped", [False, True])
def test_logprobs_are_those_of_the_twin(grouped, chunk):
    rollout = played(make_policy(), turns=2, samples=G)
    rows = rows_of(rollout, grouped=grouped)
    found = score(make_policy(vocabulary_chunk=chunk), params_of(), rows)
    expected = twin(params_of(), rows, Sampling())
    behind = expected != 0
    assert behind[np.asarray(rows.mask)].all()
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
@pytest.mark.parametrize("turns", [1, 2])
def test_the_ratio_is_one_for_every_distribution(sampling, turns):
    """Of the policy that sampled: temperature, top-k and top-p included."""
    policy = make_policy(sampling=sampling)
    rollout = played(policy, sampling, turns=turns, samples=G)
    rows = rows_of(rollout)
    found = np.asarray(score(policy, params_of(), rows))
    mask = np.asarray(rows.mask)
    assert mask.sum() > P * G
    np.testing.assert_allclose(np.exp(found - rows.behaviour_logprobs)[mask], 1, rtol=1e-5)
    np.testing.assert_allclose(found[mask], twin(params_of(), rows, sampling)[mask], atol=2e-5)


def test_a_token_that_would_no_longer_be_sampled_keeps_a_finite_ratio_and_gradient():
    sampling = Sampling(1.0, 3)
    policy = make_policy(sampling=sampling)
    rows = rows_of(played(policy, sampling, turns=1, samples=G))
    other = params_of(seed=5)

    def total(params):
        logprobs = policy.logprobs(policy.read(params, rows))
        return jnp.sum(jnp.where(rows.mask, logprobs, 0.0)), logprobs

    (_, found), gradient = quick(jax.value_and_grad(total, has_aux=True))(other)
    np.testing.assert_allclose(
        np.asarray(found)[rows.mask], twin(other, rows, sampling)[rows.mask], atol=2e-5
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def gradient_of(policy, rows, count=1):
    """Of a weighted sum, a microbatch after the other on each device."""
    weights = jnp.asarray(WEIGHTS[: len(rows.tokens), : rows.tokens.shape[1]])

    def of_part(params, part):
        rows, weights = part
        return jax.grad(lambda p: jnp.sum(weights * policy.logprobs(policy.read(p, rows))))(params)

    cut = lambda x: x.reshape(count, -1, *x.shape[1:])  # noqa: E731
    parts = jax.tree.map(cut, (rows, weights))
    return quick(add_up(of_part, policy.mesh))(params_of(), parts)


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (1, 2), (4, 8)], ids=str)
def test_groups_have_the_gradient_of_rows_apart(devices, count):
    """Microbatches of four groups, of two, and of half a group on each of four devices."""
    rollout = played(make_policy(), turns=2, samples=G)
    apart = gradient_of(make_policy(), rows_of(rollout, grouped=False))
    groups = gradient_of(make_policy(on(devices, 1, 1)), rows_of(rollout), count)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), apart, groups)


def test_a_prompt_is_read_once():
    """In the program: no attention of G copies of it."""
    policy = make_policy()
    rows = rows_of(played(policy, turns=1, samples=G))
    cost = []
    for grouped in (rows, dataclasses.replace(rows, samples=1)):
        program = compile_once(lambda p, rows: policy.read(p, rows).states)
        cost.append(program.lower(params_of(), grouped).compile().cost_analysis()["flops"])
    assert cost[0] < 0.8 * cost[1]


@pytest.mark.parametrize("grouped", [False, True])
def test_padding_is_neither_seen_nor_differentiated(grouped):
    """Tokens behind the end that no vocabulary has, rows of nothing, rows without a mask."""
    policy = make_policy()
    rows = rows_of(played(policy, turns=2, samples=G), grouped=grouped)
    real = np.arange(rows.tokens.shape[1]) < np.asarray(rows.count)[:, None]
    dirty = dataclasses.replace(rows, tokens=jnp.where(real, rows.tokens, -7))
    for a, b in zip(
        jax.tree.leaves((score(policy, params_of(), rows), gradient_of(policy, rows))),
        jax.tree.leaves((score(policy, params_of(), dirty), gradient_of(policy, dirty))),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(b).all()
    nothing = dataclasses.replace(
        dirty,
        tokens=jnp.full_like(rows.tokens, -7),
        count=jnp.zeros_like(rows.count),
        prompt_count=jnp.zeros_like(rows.count),
    )
    assert not np.asarray(score(policy, params_of(), nothing)).any()
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient_of(policy, nothing)))


def test_rows_without_a_prompt_are_scored_from_the_second_token():
    policy = make_policy()
    rows = rows_of(played(policy, turns=2))
    bare = Rows(rows.tokens, rows.count, rows.mask)
    found = np.asarray(score(policy, params_of(), bare))
    np.testing.assert_allclose(found, twin(params_of(), bare, Sampling()), atol=2e-5)
    assert (found[:, 1] != 0).all()
    assert not found[:, 0].any()


@pytest.mark.parametrize("samples", [1, 2])
def test_rows_longer_than_promised_are_loud(samples):
    tokens = jnp.asarray(RNG.integers(0, 9, (2, 8)), jnp.int32).at[1].set(jnp.arange(8))
    count, prompt = jnp.array([6, 8]), jnp.array([2, 2])
    rows = Rows(
        tokens, count, jnp.ones((2, 8), bool), prompt_count=prompt, prompt_size=4, samples=samples
    )
    found = np.asarray(score(make_policy(), params_of(), rows))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).any()


# Whole distributions.


def judge(log_p, log_q, tokens):
    return {"kl": kl(log_p, log_q), "token": tokens.astype(jnp.float32)}


def test_divergences_of_two_policies_are_exact_and_in_chunks():
    rows = rows_of(played(make_policy(), turns=2, samples=G))
    one, other = params_of(), params_of(seed=5)
    sampling = Sampling(0.7)
    for chunk in (3, 64):
        policy = make_policy(vocabulary_chunk=chunk, sampling=sampling)

        def both(one, other, rows, policy=policy):
            readings = policy.read(one, rows), policy.read(other, rows)
            return policy.over_vocabulary(judge, *readings)

        found = quick(both)(one, other, rows)
        log_p, log_q = (policies.twin_distributions(p, rows, sampling) for p in (one, other))
        expected = np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
        behind = policies.scored(rows)
        np.testing.assert_allclose(found["kl"], np.where(behind, expected, 0), atol=1e-4)
        np.testing.assert_array_equal(found["token"], np.where(behind, rows.tokens, 0))


def test_one_answer_behind_two_prompts_is_matched_token_by_token():
    """Rows of other sizes, whose prompts and whose longest prompts differ."""
    policy, T, more = make_policy(), 9, 4
    count, prompt = np.array([7, 9, 5]), np.array([2, 4, 3])
    tokens = RNG.integers(0, SHAPE.vocabulary, (3, T)).astype(np.int32)
    longer = np.zeros((3, T + more + 1), np.int32)
    for row in range(3):
        shown = RNG.integers(0, SHAPE.vocabulary, more)
        answer = tokens[row, prompt[row] : count[row]]
        said = np.concatenate([shown, tokens[row, : prompt[row]], answer])
        longer[row, : len(said)] = said
    make = lambda tokens, count, prompt, size: Rows(  # noqa: E731
        jnp.asarray(tokens), jnp.asarray(count), jnp.ones(tokens.shape, bool),
        prompt_count=jnp.asarray(prompt), prompt_size=size,
    )  # fmt: skip
    short, long = make(tokens, count, prompt, 4), make(longer, count + more, prompt + more, 8)

    def between(params, short, long):
        readings = policy.read(params, short), policy.read(params, long)
        return policy.over_vocabulary(lambda p, q, tokens: kl(p, q), *readings)

    found = np.asarray(quick(between)(params_of(), short, long))
    of = functools.partial(policies.twin_distributions, params_of(), sampling=Sampling())
    log_p, log_q = of(rows=short), of(rows=long)
    for row in range(3):
        for at in range(T):
            expected = 0.0
            if prompt[row] <= at < count[row]:
                p, q = log_p[row, at], log_q[row, at + more]
                expected = np.sum(np.exp(p) * (p - q))
            np.testing.assert_allclose(found[row, at], expected, atol=1e-4)


def test_readings_that_do_not_match_are_refused():
    policy = make_policy()
    rows = rows_of(played(policy, turns=1))
    bare = Rows(rows.tokens, rows.count, rows.mask)
    readings = [policy.read(params_of(), each) for each in (rows, bare)]
    with pytest.raises(ValueError, match="give all rows a prompt_count"):
        policy.over_vocabulary(lambda p, q, t: kl(p, q), *readings)


# Playing.


@pytest.mark.parametrize(("prompts", "samples"), [(1, 4), (6, 1), (2, 3)])
def test_episodes_are_the_same_on_any_number_of_devices(prompts, samples):
    policies.check_episodes(on(4, 1, 1), prompts, samples)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 2, 2)], ids=str)
def test_layers_apart_play_as_layers_in_a_loop(sizes):
    looped = played(make_policy(), turns=2, samples=2)
    apart = make_policy(on(*sizes), scan_layers=False)
    params = place(params_of(), shardings_of(params_of(), apart.rules, apart.mesh))
    found = played(apart, turns=2, samples=2, params=params)
    np.testing.assert_array_equal(looped.tokens, found.tokens)
    np.testing.assert_allclose(looped.behaviour_logprobs, found.behaviour_logprobs, atol=1e-5)


def test_prompts_of_a_host_are_answered_by_the_same_player():
    policy, task = make_policy(), PromptTask()
    keys = policies.keys(3)
    opened = jax.vmap(TASK.opening)(deal(TASK, keys))
    dealt = task.deal(opened.tokens, opened.length)
    play = quick(functools.partial(policy.play, turns=1, samples=2), static_argnums=1)
    found = play(params_of(), task, dealt, keys, Sampling())
    expected = played(policy, turns=1, prompts=3, samples=2)
    for name in ("tokens", "length", "chosen", "behaviour_logprobs", "truncated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.state.terminated.all()
    with pytest.raises(ValueError, match="not drawn from a key"):
        task.reset(keys[0])


def test_forbidden_tokens_are_never_sampled_nor_scored():
    free = make_policy()
    seen = np.asarray(played(free, turns=2, samples=G).tokens)
    chosen = np.asarray(played(free, turns=2, samples=G).chosen)
    common = [int(t) for t in np.argsort(-np.bincount(seen[chosen], minlength=29))[:3]]
    policy = make_policy(forbidden=tuple(common))
    rollout = played(policy, turns=2, samples=G)
    assert not np.isin(np.asarray(rollout.tokens)[rollout.chosen], common).any()
    rows = rows_of(rollout)
    found = np.asarray(score(policy, params_of(), rows))
    mask = np.asarray(rows.mask)
    np.testing.assert_allclose(found[mask], np.asarray(rows.behaviour_logprobs)[mask], atol=2e-5)
    other = np.asarray(score(policy, params_of(), rows_of(played(free, turns=2, samples=G))))
    assert (np.isneginf(other) == (np.isin(seen, common) & (other != 0))).all()


@pytest.mark.parametrize(
    "sampling", [Sampling(-1.0), Sampling(1.0, -1), Sampling(1.0, 0, 0.0), Sampling(jnp.ones(()))]
)
def test_a_sampling_that_cannot_be_scored_is_refused(sampling):
    with pytest.raises(ValueError, match="must be Python numbers with 0 <= temperature"):
        make_policy.__wrapped__(sampling=sampling)


# Adapters.


@functools.cache
def adapted():
    """Adapters that change something, of layers and of what is used twice."""
    policy = make_policy(lora=policies.LORA)
    fresh = policy.initial(params_of(), jax.random.key(1))
    noise = np.random.default_rng(7)
    return (
        policy,
        fresh,
        jax.tree.map(lambda x: x + noise.normal(0, 0.2, x.shape).astype("f4"), fresh),
    )


def test_adapters_begin_as_the_base():
    policy, fresh, _ = adapted()
    rows = rows_of(played(make_policy(), turns=1, samples=G))
    beside = score(policy, policy.assemble(fresh, params_of()), rows)
    np.testing.assert_array_equal(beside, score(make_policy(), params_of(), rows))
    plain = make_policy()
    assert plain.initial(params_of(), jax.random.key(1)) is params_of()
    assert plain.assemble(params_of(), None) is plain.merged(params_of(), None) is params_of()


def test_adapters_beside_play_and_score_as_the_merged_model():
    policy, _, trained = adapted()
    merged = policy.merged(trained, params_of())
    beside = policy.assemble(trained, params_of())
    rollouts = [played(policy, turns=2, samples=G, params=p) for p in (beside, merged)]
    np.testing.assert_array_equal(rollouts[0].tokens, rollouts[1].tokens)
    rows = rows_of(rollouts[0])
    np.testing.assert_allclose(
        score(policy, beside, rows), score(make_policy(), merged, rows), atol=2e-5
    )


def test_only_adapters_have_a_gradient():
    policy, _, trained = adapted()
    rows = rows_of(played(make_policy(), turns=1, samples=G))

    def total(trained, base):
        return jnp.sum(policy.logprobs(policy.read(policy.assemble(trained, base), rows)))

    gradient, of_base = quick(jax.grad(total, (0, 1)))(trained, params_of())
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_base))


def test_adapters_need_a_rank():
    lora = dataclasses.replace(policies.LORA, rank=0)
    with pytest.raises(ValueError, match=r"lora.rank=0 must be at least 1"):
        make_policy(lora=lora)


# Meshes.


MESHES = [(1, 2, 2), pytest.param((2, 2, 1), marks=pytest.mark.slow)]


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize(("prompts", "samples"), [(4, 4), (1, 4), (3, 1)])
def test_sharded_episodes_are_those_of_one_device(sizes, prompts, samples):
    policies.check_episodes(on(*sizes), prompts, samples)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("lora", [None, policies.LORA], ids=["all", "adapters"])
def test_sharded_learning_is_that_of_one_device(sizes, lora):
    policies.check_learning(on(*sizes), lora)


@pytest.mark.slow
def test_eight_devices_do_what_one_does():
    """In a process of its own, which has eight."""
    program = """
from rlrazor.runtime.mesh import make_mesh
from tests.oracles import policies
for data, fsdp, tensor in ((8, 1, 1), (2, 2, 2), (1, 4, 2), (2, 1, 4)):
    mesh = make_mesh(data=data, fsdp=fsdp, tensor=tensor)
    policies.check_learning(mesh)
    for prompts, samples in ((8, 2), (2, 4), (3, 1)):
        policies.check_episodes(mesh, prompts, samples)
    print(data, fsdp, tensor)
"""
    assert len(lines_of(program)) == 4


def test_sharded_parameters_are_nowhere_whole():
    policy = make_policy(on(1, 2, 2))
    assert not policy.replicated
    params = place(params_of(), shardings_of(params_of(), policy.rules, policy.mesh))
    rows = rows_of(played(make_policy(), turns=1, samples=G))
    text = (
        compile_once(lambda p, rows: policy.logprobs(policy.read(p, rows)))
        .lower(params, rows).compile().as_text()
    )  # fmt: skip
    assert "f32[2,12,20]" not in text
