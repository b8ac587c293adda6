"""Low-rank changes: nothing at first, the same beside the matrices as merged into them."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlrazor.models.cache import init_cache
from rlrazor.models.lora import (
    apply_beside,
    init_lora,
    lora_rules,
    merge,
    train_beside,
    unmerge,
)
from rlrazor.models.partition import transformer_rules
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import layout, make_mesh, place, shardings_of
from tests.oracles.tiny_checkpoints import LLAMA
from tests.oracles.tiny_transformers import FULL, make, quick

TOKENS = np.random.default_rng(0).integers(0, FULL.vocabulary, (3, 8))
SCALE = 0.7
EVERYTHING, LAYERS = (".*",), ("layers/.*",)
LINEAR = {
    *(f"layers/attention/{name}" for name in ("query", "key", "value", "output")),
    *(f"layers/mlp/{name}" for name in ("gate", "up", "down")),
}


def adapters(params, targets=EVERYTHING, rank=3, seed=0):
    """As after some training: no b at zero."""
    rng = np.random.default_rng(seed)
    lora = init_lora(jax.random.key(seed), params, targets=targets, rank=rank)
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), lora)


def modules(lora):
    return {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(lora)
    }


def logits_of(model, change=lambda params, *lora: params):
    """Compiled (params, tokens, *lora) -> logits of the changed parameters."""

    def score(params, tokens, *lora):
        params = change(params, *lora)
        return model.apply(params, model.apply(params, tokens)[0], method="logits")

    return quick(score)


def loss_of(model):
    def loss(params, batch, key):
        hidden, _ = model.apply(params, batch)
        return jnp.mean(model.apply(params, hidden, method="logits") ** 3), {}

    return loss


@pytest.fixture(scope="module", params=["untied", "tied"])
def case(request):
    config = dataclasses.replace(FULL, tied_head=request.param == "tied")
    model, params = make(config)
    return model, params, logits_of(model)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (EVERYTHING, {"embed", "head", *LINEAR}),
        (LAYERS, LINEAR),
        (("attention/(query|value)",), {"layers/attention/query", "layers/attention/value"}),
        (("up", "query", "up"), {"layers/mlp/up", "layers/attention/query"}),
        (("head",), {"head"}),
    ],
)
def test_targets_name_matrices_by_their_path(targets, expected):
    _, params = make(FULL)
    assert modules(init_lora(jax.random.key(0), params, targets=targets, rank=2)) == expected


def test_shapes_and_what_is_drawn():
    config = dataclasses.replace(FULL, width=64, mlp_width=96)
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), TOKENS)
    lora = init_lora(jax.random.key(0), shapes, targets=EVERYTHING, rank=5)
    chex.assert_type(jax.tree.leaves(lora), jnp.float32)
    assert lora["layers"]["mlp"]["down"]["a"].shape == (2, 96, 5)
    assert lora["layers"]["mlp"]["down"]["b"].shape == (2, 5, 64)
    assert lora["embed"]["a"].shape == (29, 5)
    assert lora["head"]["b"].shape == (5, 29)
    assert not any(np.any(x) for path, x in jax.tree.leaves_with_path(lora) if path[-1].key == "b")
    drawn = np.asarray(lora["layers"]["mlp"]["down"]["a"]) * np.sqrt(96)
    assert np.abs(drawn).max() <= 1
    np.testing.assert_allclose(drawn.var(), 1 / 3, rtol=0.1)
    for other in (drawn[1], np.asarray(lora["layers"]["mlp"]["up"]["a"])[0, :96] * 8):
        assert abs(np.corrcoef(drawn[0, :64].ravel(), other[:64].ravel())[0, 1]) < 0.2
    again = init_lora(jax.random.key(0), shapes, targets=EVERYTHING, rank=5)
    chex.assert_trees_all_equal(lora, again)


def test_wrong_targets_and_ranks_are_named():
    _, params = make(FULL)
    for target in ("querry", "attention", "mlp_norm", "query/bias", "query/kernel"):
        with pytest.raises(
            ValueError, match=f"target '{target}' is none of embed, head, layers/at"
        ):
            init_lora(jax.random.key(0), params, targets=["up", target], rank=2)
    for rank, message in ((0, "rank must be at least 1"), (13, "rank=13 is more than .* 12")):
        with pytest.raises(ValueError, match=message):
            init_lora(jax.random.key(0), params, targets=LAYERS, rank=rank)


def test_a_new_adapter_changes_nothing(case):
    _, params, score = case
    lora = init_lora(jax.random.key(0), params, targets=EVERYTHING, rank=2)
    chex.assert_trees_all_equal(merge(params, lora, SCALE), params)
    beside = score(apply_beside(params, lora, SCALE), TOKENS)
    np.testing.assert_array_equal(beside, score(params, TOKENS))


def test_merged_is_the_matrix_with_the_product_added(case):
    _, params, _ = case
    lora = adapters(params)
    merged = merge(params, lora, SCALE)
    for path, matrix in jax.tree.leaves_with_path(params):
        found = merged
        for step in path:
            found = found[step.key]
        expected = matrix.astype(np.float64)
        if path[-1].key in ("kernel", "embedding"):
            node = lora
            for step in path[1:-1]:
                node = node[step.key]
            a, b = (node[n].astype(np.float64) for n in "ab")
            for place in np.ndindex(a.shape[:-2]):
                expected[place] += SCALE * a[place] @ b[place]
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=str(path))


@pytest.mark.parametrize("targets", [EVERYTHING, LAYERS, ("query", "down"), ("embed",)])
def test_applied_beside_is_merged(case, targets):
    _, params, score = case
    lora = adapters(params, targets)
    merged = score(merge(params, lora, SCALE), TOKENS)
    beside = score(apply_beside(params, lora, SCALE), TOKENS)
    np.testing.assert_allclose(beside, merged, atol=2e-5)
    assert np.abs(merged - score(params, TOKENS)).max() > 0.1


@pytest.mark.parametrize("change", [{"scan_layers": False}, {"remat": "full"}])
def test_applied_beside_however_layers_are_computed(change):
    model, params = make(FULL)
    lora = adapters(params)
    other = Transformer(dataclasses.replace(FULL, **change))
    expected = quick(jax.grad(lambda lora: train_beside(loss_of(model), params, SCALE)(
        lora, TOKENS, None)[0]))(lora)  # fmt: skip
    found = quick(jax.grad(lambda lora: train_beside(loss_of(other), params, SCALE)(
        lora, TOKENS, None)[0]))(lora)  # fmt: skip
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-4)


def test_applied_beside_in_decoding():
    model, params = make(FULL)
    beside = apply_beside(params, adapters(params), SCALE)

    def decode(params):
        cache = init_cache(FULL, 3, 8, jnp.float32)
        first, cache = model.apply(params, TOKENS[:, :5], cache=cache)
        rest, cache = model.apply(params, TOKENS[:, 5:], cache=cache)
        return jnp.concatenate([first, rest], axis=1)

    whole = quick(lambda params: model.apply(params, TOKENS)[0])(beside)
    np.testing.assert_allclose(quick(decode)(beside), whole, atol=1e-5)


def test_unmerge_restores():
    _, params = make(FULL)
    lora = adapters(params)
    back = unmerge(merge(params, lora, SCALE), lora, SCALE)
    chex.assert_trees_all_close(back, params, atol=1e-6)
    # Of what it leaves alone, every bit.
    chex.assert_trees_all_equal(back["params"]["final_norm"], params["params"]["final_norm"])


def test_merging_keeps_the_type_and_rounds_once():
    _, params = make(dataclasses.replace(FULL, param_dtype="bfloat16"))
    lora = adapters(params)
    merged = merge(params, lora, SCALE)
    chex.assert_trees_all_equal_shapes_and_dtypes(merged, params)
    wide = merge(jax.tree.map(lambda x: x.astype(np.float32), params), lora, SCALE)
    chex.assert_trees_all_equal(merged, jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide))


def test_the_gradient_reaches_the_adapters_and_nothing_else(case):
    """It is that of the merged matrix, through a and through b."""
    model, params, _ = case
    lora, loss = adapters(params), loss_of(model)

    def of_both(params, lora):
        return train_beside(loss, params, SCALE)(lora, TOKENS, None)[0]

    frozen, found = quick(jax.grad(of_both, argnums=(0, 1)))(params, lora)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(frozen))
    full = quick(jax.grad(lambda p: loss(p, TOKENS, None)[0]))(merge(params, lora, SCALE))

    def check(gradient, mine, node):
        if "a" in mine:
            d = np.asarray(gradient.get("kernel", gradient.get("embedding")), np.float64)
            by_a = SCALE * d @ node["b"].swapaxes(-1, -2)
            by_b = SCALE * node["a"].swapaxes(-1, -2) @ d
            for got, expected in ((mine["a"], by_a), (mine["b"], by_b)):
                assert np.abs(expected).max() > 0
                np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
            return
        for name in mine:
            check(gradient[name], mine[name], node[name])

    check(full["params"], found, lora)


def test_training_moves_the_adapters_towards_a_lower_loss():
    model, params = make(FULL)

    def loss(params, batch, key):
        hidden, _ = model.apply(params, batch)
        log_p = jax.nn.log_softmax(model.apply(params, hidden, method="logits")[:, :-1])
        return -jnp.mean(jnp.take_along_axis(log_p, batch[:, 1:, None], -1)), {}

    tx = optax.adam(0.02)

    def train(params, lora):
        def step(carry, _):
            lora, state = carry
            value, gradient = jax.value_and_grad(
                lambda lora: train_beside(loss, params, SCALE)(lora, TOKENS, None)[0]
            )(lora)
            updates, state = tx.update(gradient, state)
            return (optax.apply_updates(lora, updates), state), value

        return jax.lax.scan(step, (lora, tx.init(lora)), length=30)

    lora = init_lora(jax.random.key(0), params, targets=("attention/.*", "mlp/.*"), rank=4)
    (lora, _), values = quick(train)(params, lora)
    assert values[-1] < 0.8 * values[0]
    assert all(np.any(leaf) for leaf in jax.tree.leaves(lora))


@pytest.mark.parametrize(("fsdp", "tensor"), [(2, 2), (4, 1), (1, 2)])
def test_adapters_lie_as_what_they_adapt(fsdp, tensor):
    model, params = make(LLAMA)
    mesh = make_mesh(data=1, fsdp=fsdp, tensor=tensor)
    rules = transformer_rules(LLAMA)
    lora = adapters(params, rank=3)
    at = shardings_of({"lora": lora}, lora_rules(rules), mesh)["lora"]
    of_params = shardings_of(params, rules, mesh)["params"]

    def check(mine, whole):
        if "a" in mine:
            *stack, rows, columns = whole.get("kernel", whole.get("embedding")).spec
            assert tuple(mine["a"].spec) == (*stack, rows, None)
            assert tuple(mine["b"].spec) == (*stack, None, columns)
            return
        for name in mine:
            check(mine[name], whole[name])

    check(at, of_params)
    tokens = np.concatenate([TOKENS, TOKENS[:1]])  # as many rows as devices
    on_mesh = Transformer(LLAMA, layout(mesh, rules))
    there = place(params, shardings_of(params, rules, mesh)), tokens, place(lora, at)
    for change in (apply_beside, merge):
        one, many = (
            logits_of(m, lambda p, lora: change(p, lora, SCALE))  # noqa: B023
            for m in (model, on_mesh)
        )
        np.testing.assert_allclose(many(*there), one(params, tokens, lora), atol=2e-5)
