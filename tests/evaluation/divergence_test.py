import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from rlrazor.evaluation import divergence

divergences = jax.jit(divergence.divergences)  # faster to compile than its operations one by one
N, V = 7, 5
KEYS = {"kl_base_policy_nats", "kl_policy_base_nats", "total_variation", "l2_distance"}


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return 3 * rng.normal(size=(2, N, V)).astype(np.float32)


def test_matches_scipy_in_float64(logits):
    p, q = special.softmax(logits.astype(np.float64), axis=-1)
    got = divergences(*logits)
    assert set(got) == KEYS
    expected = {
        "kl_base_policy_nats": np.mean([stats.entropy(a, b) for a, b in zip(p, q, strict=True)]),
        "kl_policy_base_nats": np.mean([stats.entropy(b, a) for a, b in zip(p, q, strict=True)]),
        "total_variation": np.mean(np.abs(p - q).sum(-1) / 2),
        "l2_distance": np.mean(np.sqrt(((p - q) ** 2).sum(-1))),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-6, err_msg=name)


def test_exchanging_the_arguments_exchanges_the_directions(logits):
    base, policy = logits
    there, back = divergences(base, policy), divergences(policy, base)
    assert abs(there["kl_base_policy_nats"] - there["kl_policy_base_nats"]) > 0.1
    assert there["kl_base_policy_nats"] == back["kl_policy_base_nats"]


def test_no_change_is_zero_and_logits_may_shift(logits):
    for shift in (0.0, 2.0):
        for name, value in divergences(logits[0], logits[0] + shift).items():
            np.testing.assert_allclose(value, 0.0, atol=1e-6, err_msg=name)


def test_an_impossible_class_is_infinite_in_one_direction_only():
    base = jnp.zeros((1, 2))
    policy = jnp.array([[0.0, -jnp.inf]])
    got = divergences(base, policy)
    assert got["kl_base_policy_nats"] == jnp.inf
    np.testing.assert_allclose(got["kl_policy_base_nats"], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(got["total_variation"], 0.5)


def test_half_precision_logits_are_measured_in_float32(logits):
    half = jnp.asarray(logits, jnp.bfloat16)
    got = divergences(*half)
    chex.assert_trees_all_equal(got, divergences(*half.astype(jnp.float32)))
    assert all(value.dtype == jnp.float32 for value in got.values())


def test_vmapped_equals_solo_and_traces_once(logits):
    base, policy = logits
    policies = np.stack([policy, 2 * policy, base])
    traced = jax.jit(
        jax.vmap(chex.assert_max_traces(divergence.divergences, n=1), in_axes=(None, 0))
    )
    many = traced(base, policies)
    traced(base, policies)
    solo = [divergences(base, p) for p in policies]
    chex.assert_trees_all_close(many, jax.tree.map(lambda *x: np.stack(x), *solo), atol=1e-6)


def test_shapes_must_agree(logits):
    with pytest.raises(AssertionError):
        divergences(logits[0], logits[1][:, :-1])
    with pytest.raises(AssertionError):
        divergences(logits[0][0], logits[1][0])
