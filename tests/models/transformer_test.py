import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.models.rope import Llama3Scaling
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from tests.oracles import transformer_twin as twin
from tests.oracles.tiny_transformers import FULL, PLAIN, make, quick, with_embedding

B, T = 3, 8
TOKENS = np.random.default_rng(0).permutation(FULL.vocabulary)[: B * T].reshape(B, T)  # distinct
WHOLE, LENGTH = np.full(B, T), np.array([5, 8, 2])
REAL = np.arange(T) < LENGTH[:, None]


def hidden_of(model):
    """Compiled (params, tokens, count) -> hidden, without a cache; traced once."""
    chex.clear_trace_counter()
    apply = chex.assert_max_traces(lambda p, t, n: model.apply(p, t, count=n)[0], n=1)
    return quick(apply)


def gradient_of(model):
    """Compiled (params, tokens, count) -> loss and gradient of the real hidden states."""

    def loss(params, tokens, count):
        hidden, _ = model.apply(params, tokens, count=count)
        real = jnp.arange(T)[None] < count[:, None]
        return jnp.mean(jnp.where(real[..., None], hidden, 0.0) ** 3)

    return quick(jax.value_and_grad(loss))


@pytest.fixture(scope="module")
def full():
    """Model, parameters, the compiled pass and its hidden states of all tokens."""
    model, params = make(FULL)
    run = hidden_of(model)
    return model, params, run, run(params, TOKENS, WHOLE)


@pytest.fixture(scope="module")
def gradient(full):
    return gradient_of(full[0])


@pytest.mark.parametrize("config", [FULL, PLAIN], ids=["full", "plain"])
def test_matches_the_float64_twin(config):
    model, params = make(config)

    def score(params, tokens):
        hidden, cache = model.apply(params, tokens)
        assert cache is None
        return hidden, model.apply(params, hidden, method="logits")

    hidden, logits = quick(score)(params, TOKENS)
    chex.assert_type([hidden, logits], jnp.float32)
    for b in range(B):
        expected = twin.hidden_states(params, TOKENS[b], config)
        np.testing.assert_allclose(hidden[b], expected, atol=1e-5)
        np.testing.assert_allclose(logits[b], twin.logits(params, expected, config), atol=3e-5)


def test_the_future_and_other_rows_have_an_exactly_zero_gradient(full):
    model, params, _, _ = full

    def probe(embedding, t):
        return jnp.sum(model.apply(with_embedding(params, embedding), TOKENS)[0][0, t])

    gradient = quick(jax.vmap(jax.grad(probe), (None, 0)))
    reach = gradient(params["params"]["embed"]["embedding"], np.arange(T)).any(-1)  # [T, V]
    np.testing.assert_array_equal(reach[:, TOKENS[0]], np.tri(T, dtype=bool))
    assert not reach[:, TOKENS[1:].ravel()].any()


def test_padded_equals_unpadded_and_the_padding_may_be_nan(full):
    model, params, run, whole = full
    pad = TOKENS[2, -1]
    table = params["params"]["embed"]["embedding"].copy()
    table[pad] = np.nan
    out = run(with_embedding(params, table), np.where(REAL, TOKENS, pad), LENGTH)
    np.testing.assert_allclose(out[REAL], whole[REAL], atol=1e-5)
    assert np.isfinite(out).all()
    alone = quick(lambda params: model.apply(params, TOKENS[:1, :5])[0])(params)
    np.testing.assert_allclose(out[:1, :5], alone, atol=1e-5)


def test_the_gradient_never_meets_the_padding(full, gradient):
    _, params, _, _ = full
    clean = gradient(params, TOKENS, LENGTH)
    pad = TOKENS[2, -1]
    table = params["params"]["embed"]["embedding"].copy()
    table[pad] = np.nan
    other = gradient(with_embedding(params, table), np.where(REAL, TOKENS, pad), LENGTH)
    chex.assert_trees_all_equal(clean, other)
    chex.assert_tree_all_finite(clean)
    reached = clean[1]["params"]["embed"]["embedding"].any(-1)
    np.testing.assert_array_equal(np.flatnonzero(reached), np.sort(TOKENS[REAL]))


def test_rows_of_a_batch_are_independent(full):
    _, params, run, whole = full
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(run(params, TOKENS[order], WHOLE), whole[order], atol=1e-5)


@pytest.mark.parametrize("change", [{"scan_layers": False}, {"remat": "full"}, {"remat": "dots"}])
def test_unrolled_or_rematerialised_is_the_same_function(full, gradient, change):
    """Values, gradients and the tree of parameters."""
    model, params, _, _ = full
    changed = Transformer(dataclasses.replace(FULL, **change))
    chex.assert_trees_all_close(
        gradient_of(changed)(params, TOKENS, LENGTH), gradient(params, TOKENS, LENGTH), atol=1e-5
    )
    shapes = [jax.eval_shape(m.init, jax.random.key(0), TOKENS) for m in (model, changed)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("scan", [True, False])
def test_scanning_and_recomputing_really_happen(full, scan):
    def program(**change):
        model = Transformer(dataclasses.replace(FULL, scan_layers=scan, **change))
        return gradient_of(model).lower(full[1], TOKENS, LENGTH).as_text()

    plain, recomputed, some = program(), program(remat="full"), program(remat="dots")
    assert ("stablehlo.while" in plain) == ("stablehlo.while" in recomputed) == scan
    exponentials = [text.count("stablehlo.exponential") for text in (plain, recomputed, some)]
    assert exponentials[0] < exponentials[1] == exponentials[2]
    products = [text.count("stablehlo.dot_general") for text in (plain, some, recomputed)]
    assert products[0] < products[1] < products[2]  # attention's alone, then all of them
    # Without a loop around it, only a barrier keeps the compiler from merging the two.
    assert ("optimization_barrier" in recomputed) == (not scan)


def test_tied_equals_untied_with_the_same_matrix():
    tied, params = make(PLAIN)
    untied = Transformer(dataclasses.replace(PLAIN, tied_head=False))
    table = params["params"]["embed"]["embedding"]
    hidden = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
    score = quick(lambda params: untied.apply(params, hidden, method="logits"))
    expected = tied.apply(params, hidden, method="logits")
    for factor in (1, 2):  # and it is a matrix of its own
        both = {"params": {**params["params"], "head": {"kernel": factor * table.T}}}
        np.testing.assert_allclose(score(both), factor * expected, atol=1e-5)


def test_parameter_names_and_shapes():
    shapes = jax.eval_shape(Transformer(FULL).init, jax.random.key(0), TOKENS)["params"]
    found = {
        "/".join(step.key for step in path): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(shapes)
    }
    assert found == {
        "embed/embedding": (29, 12),
        "layers/attention_norm/scale": (2, 12),
        "layers/attention/query/kernel": (2, 12, 24),
        "layers/attention/query/bias": (2, 24),
        "layers/attention/key/kernel": (2, 12, 12),
        "layers/attention/key/bias": (2, 12),
        "layers/attention/value/kernel": (2, 12, 12),
        "layers/attention/value/bias": (2, 12),
        "layers/attention/query_norm/scale": (2, 6),
        "layers/attention/key_norm/scale": (2, 6),
        "layers/attention/output/kernel": (2, 24, 12),
        "layers/mlp_norm/scale": (2, 12),
        "layers/mlp/gate/kernel": (2, 12, 20),
        "layers/mlp/up/kernel": (2, 12, 20),
        "layers/mlp/down/kernel": (2, 20, 12),
        "final_norm/scale": (12,),
        "head/kernel": (12, 29),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"norm_epsilon": 0.1},
        {"rope_base": 7.0},
        {"rope_scaling": None},
        {"rope_scaling": Llama3Scaling(8.0, 1.0, 4.0, 64)},
    ],
)
def test_every_number_that_shapes_no_parameter_is_alive(full, change):
    _, params, _, whole = full
    model = Transformer(dataclasses.replace(FULL, **change))
    out = hidden_of(model)(params, TOKENS, WHOLE)
    assert np.abs(out[:, 1:] - whole[:, 1:]).max() > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary": 31},
        {"width": 14},
        {"layers": 3},
        {"heads": 6},
        {"kv_heads": 4},
        {"head_dim": 8},
        {"mlp_width": 24},
        {"qkv_bias": False},
        {"qk_norm": False},
        {"tied_head": True},
        {"param_dtype": "bfloat16"},
    ],
)
def test_every_field_that_shapes_parameters_is_alive(change):
    shapes = [
        jax.eval_shape(Transformer(config).init, jax.random.key(0), TOKENS)
        for config in (FULL, dataclasses.replace(FULL, **change))
    ]
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal_shapes_and_dtypes(*shapes)


def test_bfloat16_computes_in_it_and_stays_near(full):
    _, params, _, whole = full
    model = Transformer(dataclasses.replace(FULL, compute_dtype="bfloat16"))
    hidden = hidden_of(model)(params, TOKENS, WHOLE)
    logits = quick(lambda p, h: model.apply(p, h, method="logits"))(params, hidden)
    assert (hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    error = np.abs(np.asarray(hidden, np.float32) - whole)
    assert 1e-3 < error.mean() < 0.03  # hidden states are about 1


def test_a_new_model_knows_nothing():
    """Loss near log V, tied or not."""
    untied = Transformer(
        TransformerConfig(
            vocabulary=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=64
        )
    )
    tied = Transformer(dataclasses.replace(untied.config, tied_head=True))
    tokens = np.random.default_rng(0).integers(0, 64, (8, 32))

    def losses(key):
        params = untied.init(key, tokens)
        hidden, _ = untied.apply(params, tokens)
        for model in (untied, tied):
            log_p = jax.nn.log_softmax(model.apply(params, hidden, method="logits")[:, :-1])
            yield -jnp.mean(jnp.take_along_axis(log_p, tokens[:, 1:, None], -1))

    for loss in quick(lambda key: list(losses(key)))(jax.random.key(1)):
        assert abs(loss - math.log(64)) < 0.05


def test_traces_once(full):
    """The compiled pass raises at a second trace."""
    _, params, run, _ = full
    for count in ([8, 8, 8], [1, 0, 3]):
        assert np.isfinite(run(params, TOKENS, np.array(count))).all()


def test_wrong_inputs_are_refused(full):
    model, params, _, _ = full
    with pytest.raises(AssertionError):
        model.apply(params, TOKENS.astype(np.float32))
    with pytest.raises(AssertionError):
        model.apply(params, TOKENS, count=np.full(B + 1, T))
