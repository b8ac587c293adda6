import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from rlrazor.models.cache import init_cache
from rlrazor.models.partition import CACHE_RULES, VALUE_HEAD_RULES, transformer_rules
from rlrazor.models.transformer import Transformer
from rlrazor.models.value_head import ValueHead
from rlrazor.runtime.partition import check_divides, specs_of
from rlrazor.training.optimizer import adamw, with_masters
from rlrazor.training.state import init_state
from rlrazor.types import ROWS, Rule
from tests.oracles.tiny_transformers import FULL, PLAIN

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}
CONFIG = dataclasses.replace(FULL, vocabulary=30)


def shapes_of(config=CONFIG):
    return jax.eval_shape(Transformer(config).init, jax.random.key(0), np.zeros((1, 2), int))


def by_path(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree, is_leaf=lambda x: isinstance(x, P))
    }


def test_every_parameter_of_the_transformer_has_its_place():
    found = by_path(specs_of(shapes_of()["params"], transformer_rules(CONFIG), SIZES))
    rows, columns = P(None, "tensor", "fsdp"), P(None, "fsdp", "tensor")
    assert found == {
        "embed/embedding": P("tensor", "fsdp"),
        "layers/attention_norm/scale": P(),
        "layers/attention/query/kernel": columns,
        "layers/attention/query/bias": P(None, "tensor"),
        "layers/attention/key/kernel": columns,
        "layers/attention/key/bias": P(None, "tensor"),
        "layers/attention/value/kernel": columns,
        "layers/attention/value/bias": P(None, "tensor"),
        "layers/attention/query_norm/scale": P(),
        "layers/attention/key_norm/scale": P(),
        "layers/attention/output/kernel": rows,
        "layers/mlp_norm/scale": P(),
        "layers/mlp/gate/kernel": columns,
        "layers/mlp/up/kernel": columns,
        "layers/mlp/down/kernel": rows,
        "final_norm/scale": P(),
        "head/kernel": P("fsdp", "tensor"),
    }


@pytest.mark.parametrize("masters", [False, True])
def test_gradients_and_states_lie_as_their_parameters(masters):
    rules, params = transformer_rules(CONFIG), shapes_of()
    tx = adamw(optax.constant_schedule(0.1), weight_decay=0.0, clip_by_global_norm=1.0)
    tx = with_masters(tx) if masters else tx
    state = jax.eval_shape(lambda p: init_state(p, tx, jax.random.key(0)), params)
    found = specs_of(state, rules, SIZES)
    expected = specs_of(params, rules, SIZES)
    assert found.params == expected
    assert optax.tree.get(found.opt_state, "mu") == expected
    assert optax.tree.get(found.opt_state, "nu") == expected
    assert not masters or found.opt_state.masters == expected
    assert (found.step, found.key) == (P(), P())
    assert optax.tree.get(found.opt_state, "ScaleByAdamState").count == P()


def test_caches_and_critics_have_rules_too():
    cache = jax.eval_shape(lambda: init_cache(PLAIN, 4, 6, jnp.bfloat16))
    found = specs_of(cache, CACHE_RULES, SIZES)
    stored = P(None, ROWS, "tensor", None, None)
    assert (found.keys, found.values, found.filled) == (stored, stored, P(ROWS))
    head = jax.eval_shape(ValueHead((4,)).init, jax.random.key(0), np.zeros((1, 1, 12)))
    assert set(jax.tree.leaves(specs_of(head, VALUE_HEAD_RULES, SIZES))) == {P()}


def test_the_first_rule_that_ends_the_path_counts():
    tree = {"a": {"b": np.zeros((4, 6))}, "ab": {"b": np.zeros((4, 6))}, "step": np.zeros(())}
    rules = Rule("a/b", ("fsdp", None)), Rule("b", (None, "tensor")), Rule("a/b", ("data", "data"))
    found = specs_of(tree, rules, SIZES)
    expected = {"a": {"b": P("fsdp", None)}, "ab": {"b": P(None, "tensor")}, "step": P()}
    assert found == expected


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        (
            {"vocabulary": 32},
            {"tensor": 4},
            r"tensor=4 must divide the 2 heads of params/layers/attention/key/bias; "
            r"tensor can be 1, 2$",
        ),
        (
            {"heads": 8, "kv_heads": 8},
            {"tensor": 8},
            r"tensor=8 must divide the 30 entries of params/embed/embedding; tensor can be 1, 2$",
        ),
        (
            {},
            {"fsdp": 8},
            r"fsdp=8 must divide the 12 entries of .*; fsdp can be 1, 2, 3, 4, 6, 12$",
        ),
    ],
)
def test_sizes_that_do_not_divide_are_explained(change, sizes, message):
    config = dataclasses.replace(CONFIG, **change)
    with pytest.raises(ValueError, match=message):
        specs_of(shapes_of(config), transformer_rules(config), {**SIZES, **sizes})


def test_what_no_rule_knows_is_named():
    rules = transformer_rules(CONFIG)
    with pytest.raises(ValueError, match=r"no partition rule matches 'params/new/kernel' of shape"):
        specs_of({"params": {"new": {"kernel": np.zeros((3, 4))}}}, rules, SIZES)
    with pytest.raises(ValueError, match="matches 'myhead/kernel'"):  # a whole step of the path
        specs_of({"myhead": {"kernel": np.zeros((2, 2))}}, rules, SIZES)
    with pytest.raises(ValueError, match=r"'head/kernel' has axes for 2 dimensions, but 'head/ker"):
        specs_of({"head": {"kernel": np.zeros((2, 2, 2))}}, rules, SIZES)


def test_rows_that_do_not_divide_are_explained():
    check_divides((8, 3), (ROWS, None), SIZES)
    with pytest.raises(
        ValueError, match=r"data=2 x fsdp=2 must divide the 6 entries .* can be 1, 2, 3, 6$"
    ):
        check_divides((6, 3), (ROWS, None), SIZES)
