import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.evaluation.accuracy import class_scores

N, V = 6, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(N, V)).astype(np.float32)
CORRECT = RNG.random((N, V)) < 0.5


def test_matches_a_loop_in_float64():
    greedy, expected = 0, 0.0
    for logits, correct in zip(LOGITS.astype(np.float64), CORRECT, strict=True):
        greedy += bool(correct[max(range(V), key=lambda v: logits[v])])
        weights = np.exp(logits)
        expected += sum(w for w, c in zip(weights, correct, strict=True) if c) / weights.sum()
    got = class_scores(LOGITS, CORRECT)
    np.testing.assert_allclose(got["accuracy"], greedy / N, rtol=1e-6)
    np.testing.assert_allclose(got["expected_accuracy"], expected / N, rtol=1e-6)
    chex.assert_type(list(got.values()), jnp.float32)
    chex.assert_shape(list(got.values()), ())


def test_expected_accuracy_is_what_samples_score():
    samples = jax.random.categorical(jax.random.key(0), LOGITS, shape=(20_000, N))
    scored = np.take_along_axis(CORRECT[None], np.asarray(samples)[..., None], axis=-1)
    got = class_scores(LOGITS, CORRECT)["expected_accuracy"]
    np.testing.assert_allclose(got, scored.mean(), atol=0.01)


def test_right_everywhere_and_nowhere():
    for value in (True, False):
        got = class_scores(LOGITS, np.full((N, V), value))
        assert got["accuracy"] == value
        np.testing.assert_allclose(got["expected_accuracy"], float(value), rtol=1e-6)


def test_one_label_a_row_is_ordinary_accuracy_and_likelihood():
    labels = np.array([0, 1, 2, 3, 0, 1])
    got = class_scores(LOGITS, np.arange(V)[None] == labels[:, None])
    assert got["accuracy"] == np.mean(LOGITS.argmax(-1) == labels).astype(np.float32)
    likelihood = jax.nn.softmax(LOGITS)[np.arange(N), labels]
    np.testing.assert_allclose(got["expected_accuracy"], likelihood.mean(), rtol=1e-6)


def test_sure_and_impossible_answers():
    logits = np.where(np.arange(V)[None] == 2, 0.0, -np.inf).astype(np.float32)
    for answer in range(V):
        got = class_scores(logits, np.arange(V)[None] == answer)
        assert got == {"accuracy": float(answer == 2), "expected_accuracy": float(answer == 2)}


def test_vmapped_over_runs_equals_solo_in_one_trace():
    chex.clear_trace_counter()
    runs = np.stack([LOGITS, -LOGITS])
    scores = chex.assert_max_traces(class_scores, n=1)
    many = jax.jit(jax.vmap(scores, in_axes=(0, None)))(runs, CORRECT)
    for row, logits in enumerate(runs):
        mine = {name: value[row] for name, value in many.items()}
        chex.assert_trees_all_close(mine, class_scores(logits, CORRECT), rtol=1e-6)
