"""Parameters cut over a mesh: born there, gathered once, their gradients added up."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rlrazor.models.partition import transformer_rules
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import (
    compile_once,
    cut_rows,
    for_decoding,
    in_turn,
    layout,
    make_mesh,
    on_mesh,
    on_rows,
    place,
    shapes_at,
    shardings_of,
)
from rlrazor.types import ROWS, Rule
from tests.oracles.tiny_transformers import PLAIN, quick

RULES = (Rule("w", ("tensor", "fsdp")), Rule("b", (None,)))
PARAMS = {"w": np.arange(32.0, dtype=np.float32).reshape(4, 8), "b": np.ones(3, np.float32)}
MESH = make_mesh(data=1, fsdp=2, tensor=2)


def placed(mesh=MESH, params=PARAMS):
    return place(params, shardings_of(params, RULES, mesh))


def shard_shapes(x):
    return {shard.data.shape for shard in x.addressable_shards}


def test_parameters_are_born_where_they_belong():
    config = dataclasses.replace(PLAIN, vocabulary=32)
    init = functools.partial(Transformer(config).init, tokens=jnp.zeros((1, 2), jnp.int32))
    key = jax.random.key(0)
    lie = shardings_of(jax.eval_shape(init, key), transformer_rules(config), MESH)
    quickly = {"xla_backend_optimization_level": 0}
    compiled = compile_once(init, out=lie).lower(key).compile(quickly)
    params = compiled(key)
    assert shard_shapes(params["params"]["layers"]["mlp"]["gate"]["kernel"]) == {(2, 6, 10)}
    chex.assert_trees_all_close(params, quick(init)(key), atol=1e-6)
    assert not re.search(r"f32\[2,12,20\]", compiled.as_text())  # the whole is nowhere


def test_shapes_stand_for_arrays():
    lie = shardings_of(PARAMS, RULES, MESH)
    double = compile_once(lambda tree: jax.tree.map(lambda x: 2 * x, tree), out=lie)
    compiled = double.lower(shapes_at(PARAMS, lie)).compile()
    chex.assert_trees_all_equal(compiled(placed()), jax.tree.map(lambda x: 2 * x, PARAMS))
    whole = shapes_at(PARAMS, on_mesh(MESH))
    assert {leaf.sharding for leaf in jax.tree.leaves(whole)} == {on_mesh(MESH)}


def test_decoding_gathers_over_fsdp_and_rounds_only_that():
    params = placed()
    held = compile_once(lambda p: for_decoding(p, RULES, MESH, jnp.bfloat16))(params)
    assert (held["w"].dtype, held["b"].dtype) == (jnp.bfloat16, jnp.float32)
    assert held["w"].sharding.spec == P("tensor")
    assert shard_shapes(held["w"]) == {(2, 8)}
    same = compile_once(lambda p: for_decoding(p, RULES, MESH))(params)
    chex.assert_trees_all_equal(same, PARAMS)


def test_decoding_gathers_once_however_long_it_is():
    """No parameter travels in the loop."""

    def decode(params, x):
        params = for_decoding(params, RULES, MESH)
        return jax.lax.fori_loop(0, 5, lambda i, x: jnp.tanh(x @ params["w"] @ params["w"].T), x)

    rows = on_mesh(MESH, ROWS)
    text = compile_once(decode, out=rows).lower(
        shapes_at(PARAMS, shardings_of(PARAMS, RULES, MESH)),
        jax.ShapeDtypeStruct((4, 4), jnp.float32, sharding=rows),
    )
    entry = text.compile().as_text().split("ENTRY")
    assert len(entry) == 2
    assert not re.search(r"f32\[[28],[48]\]\S* all-gather", entry[0])
    assert re.search(r"all-gather", entry[1])


@pytest.mark.parametrize("sizes", [(1, 4, 1), (2, 1, 2), (1, 1, 4)], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_loop_on_rows_gathers_once_and_adds_up_in_f32(sizes, dtype):
    """A hundred terms that bf16 would lose, one after the other."""
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    params = placed(mesh, jax.tree.map(lambda x: jnp.asarray(x, dtype), PARAMS))
    rows = place(np.full((4, 100), 1 + 2**-7, np.float32), on_mesh(mesh, ROWS))

    def loss(params):
        def of_rows(shared, rows):
            assert shared["w"].dtype == jnp.float32

            def turn(total, column):
                return total + jnp.sum(shared["w"]) * column, None

            return jax.lax.scan(turn, jnp.zeros(len(rows)), rows.T)[0]

        return jnp.sum(on_rows(of_rows, mesh, RULES)(params, rows))

    gradient = compile_once(jax.grad(loss))
    expected = np.full((4, 8), 400 * (1 + 2**-7), np.float32).astype(dtype)
    np.testing.assert_array_equal(gradient(params)["w"], expected)
    text = gradient.lower(params).compile().as_text()
    assert len(re.findall(r" all-gather(?:-start)?\(", text)) <= 1


@pytest.mark.parametrize("sizes", [(1, 4, 1), (2, 2, 1), (1, 1, 1)], ids=str)
def test_parts_are_cut_from_every_device_alike_and_groups_stay_together(sizes):
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    rows = place(np.repeat(np.arange(8), 2), on_mesh(mesh, ROWS))  # pairs
    cut = compile_once(lambda rows: cut_rows(rows, 2, mesh))
    parts = cut(rows)
    assert parts.shape == (2, 8)
    np.testing.assert_array_equal(parts[:, ::2], parts[:, 1::2])
    assert sorted(np.ravel(parts[:, ::2])) == list(range(8))
    assert "all-" not in cut.lower(rows).compile().as_text()  # nothing travels
    with pytest.raises(ValueError, match=r"12 rows cannot be cut into 8 parts .* a multiple of"):
        cut_rows(np.zeros(12), 8, mesh)


def test_sums_in_turn_lie_as_their_parameters():
    params, xs = placed(), np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

    def of_part(params, x):
        return jax.tree.map(lambda leaf: leaf * jnp.sum(x), params), jnp.sum(x)

    total = compile_once(in_turn(of_part, RULES, MESH))
    sums, scalar = total(params, xs)
    expected = jax.tree.map(lambda leaf: leaf * xs.sum(), PARAMS)
    chex.assert_trees_all_close(sums, expected, rtol=1e-5)
    np.testing.assert_allclose(scalar, xs.sum(), rtol=1e-5)
    assert sums["w"].sharding == params["w"].sharding


def test_a_model_is_told_what_does_not_divide():
    tell = layout(MESH, RULES)
    assert tell.platform == "cpu"
    with pytest.raises(ValueError, match=r"data=1 x fsdp=2 must divide the 3 entries"):
        tell.constrain(jnp.zeros((3, 2)), (ROWS, None))
