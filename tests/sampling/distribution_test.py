import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.sampling.distribution import logits_as_sampled, sampled_logprobs


def twin(logits, temperature, top_k, top_p):
    """Sort, cut, renormalise, in float64."""
    logits = np.asarray(logits, np.float64)
    if temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    scaled = logits / temperature
    order = np.argsort(-scaled, kind="stable")
    if top_k:
        order = order[:top_k]
    weights = np.exp(scaled[order] - scaled[order].max())
    weights /= weights.sum()
    kept, mass = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        if kept and mass >= top_p and top_p < 1:
            break
        kept.append(token)
        mass += weight
    out = np.full(len(logits), -np.inf)
    top = scaled[kept].max()
    out[kept] = scaled[kept] - top - np.log(np.exp(scaled[kept] - top).sum())
    return out


@pytest.mark.parametrize("temperature", [0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 3, 50])
@pytest.mark.parametrize("top_p", [1e-6, 0.4, 0.9, 1.0])
def test_equals_sorting_cutting_and_renormalising(temperature, top_k, top_p):
    sample = jax.jit(sampled_logprobs)
    for seed in range(5):
        logits = np.random.default_rng(seed).normal(size=11).astype(np.float32) * 2
        found = sample(logits, temperature=temperature, top_k=top_k, top_p=top_p)
        np.testing.assert_allclose(found, twin(logits, temperature, top_k, top_p), atol=1e-5)


@pytest.mark.parametrize("temperature", [0, 0.3, 1.0])
@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("top_p", [0.4, 1.0])
def test_what_is_scored_is_what_is_sampled(temperature, top_k, top_p):
    """Rows of any rank; and the token that was sampled stays, whatever the cut."""
    logits = np.random.default_rng(0).normal(size=(2, 3, 11)).astype(np.float32)
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    sampled = jax.vmap(jax.vmap(lambda row: sampled_logprobs(row, **how)))(logits)
    scored = jax.jit(lambda x: jax.nn.log_softmax(logits_as_sampled(x, **how)))(logits)
    np.testing.assert_allclose(scored, sampled, atol=1e-6)
    for token in range(11):
        tokens = jnp.full((2, 3), token)
        found = jax.nn.softmax(logits_as_sampled(jnp.asarray(logits), tokens, **how))
        kept = (np.asarray(sampled) > -np.inf) | (np.arange(11) == token)
        scaled = logits / (temperature or 1)
        expected = np.where(kept, np.exp(scaled), 0)
        np.testing.assert_allclose(found, expected / expected.sum(-1, keepdims=True), rtol=1e-4)


def test_nothing_is_sorted_where_nothing_is_cut():
    for cut, sorts in ((0, False), (3, True)):
        score = lambda x, k=cut: logits_as_sampled(x, temperature=0.7, top_k=k, top_p=1.0)  # noqa: E731
        assert ("sort" in str(jax.make_jaxpr(score)(jnp.zeros((2, 11))))) == sorts


def test_keeps_ties_at_a_boundary_but_a_greedy_choice_is_one_token():
    logits = jnp.array([1.0, 3.0, 3.0, 0.0])
    cut = sampled_logprobs(logits, temperature=1.0, top_k=1, top_p=1.0)
    np.testing.assert_allclose(jnp.exp(cut), [0, 0.5, 0.5, 0])
    greedy = sampled_logprobs(logits, temperature=0.0, top_k=0, top_p=1.0)
    np.testing.assert_allclose(jnp.exp(greedy), [0, 1, 0, 0])


def test_impossible_tokens_stay_impossible():
    logits = jnp.array([0.0, -jnp.inf, 1.0])
    for top_p in (0.5, 1.0):
        found = sampled_logprobs(logits, temperature=0.7, top_k=0, top_p=top_p)
        assert found[1] == -jnp.inf
        assert jnp.isfinite(found[2])


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_keeping_all_without_sorting_equals_sorting_and_keeping_all(temperature):
    V = 40
    logits = np.random.default_rng(0).normal(size=(64, V)).astype(np.float32) * 5
    logits[:, 3] = logits[:, 7]  # a tie
    logits[1, 5:] = -np.inf

    @jax.jit
    def sample(top_k, top_p):
        one = jax.vmap(
            lambda row: sampled_logprobs(row, temperature=temperature, top_k=top_k, top_p=top_p)
        )
        return one(logits)

    short, long = sample(0, 1.0), sample(V, 1.0)
    np.testing.assert_array_equal(short, long)
    np.testing.assert_array_equal(short, sample(0, 1.5))  # more than all is all
    assert (np.asarray(sample(0, 0.5)) != np.asarray(short)).any() == (temperature > 0)
    assert (np.asarray(sample(2, 1.0)) != np.asarray(short)).any() == (temperature > 0)


def test_rows_with_knobs_of_their_own_equal_rows_alone():
    """Under vmap both ways are computed; each row must get its own."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(6, 11)).astype(np.float32)
    knobs = np.array([0, 0, 3, 11, 0, 1]), np.array([1.0, 0.4, 1.0, 1.0, 0.9, 0.2])
    together = jax.vmap(lambda row, k, p: sampled_logprobs(row, temperature=0.7, top_k=k, top_p=p))(
        logits, *map(jnp.asarray, knobs)
    )
    for row, k, p, found in zip(logits, *knobs, together, strict=True):
        np.testing.assert_allclose(found, twin(row, 0.7, k, p), atol=1e-5)
