import jax
import jax.numpy as jnp
import numpy as np

from experiments.general_points.language import answer_logprobs, group_logprobs
from tests.oracles.tiny_transformers import FULL, make, quick

P, G, PROMPT, REST = 3, 2, 5, 4
B, T = P * G, PROMPT + REST


def test_a_prompt_read_once_gives_the_same_logprobs_and_gradient():
    """Prompts of different length, what follows them right behind."""
    model, params = make(FULL)
    rng = np.random.default_rng(0)
    length = np.repeat([5, 2, 3], G)
    tokens = rng.integers(0, FULL.vocabulary, (B, T))
    shared = np.repeat(tokens[::G], G, axis=0)
    place = np.arange(T)[None]
    tokens = np.where(place < length[:, None], shared, tokens)
    behind = (place >= length[:, None]) & (place < length[:, None] + REST)
    weights = np.where(behind, rng.normal(size=(B, T)), 0).astype(np.float32)

    def each(params):
        return jnp.where(behind, answer_logprobs(model, params, tokens), 0)

    def once(params):
        prompt = jnp.asarray(length)
        return group_logprobs(model, params, tokens, prompt, samples=G, prompt_size=PROMPT)

    np.testing.assert_allclose(quick(once)(params), quick(each)(params), atol=1e-5)
    gradients = [
        quick(jax.grad(lambda params, f=f: jnp.sum(f(params) * weights)))(params)
        for f in (each, once)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *gradients)
