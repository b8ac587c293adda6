"""Operations counted before compilation: products by hand, loops as often as they run."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from rlrazor.runtime.mesh import add_up, make_mesh
from rlrazor.studies.count import count_flops

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)
W = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
PRODUCT = 2 * 4 * 8 * 8


def through_layers(x, w, wrap=lambda f: f):
    def layer(x, w):
        return jnp.sin(jnp.sin(x) @ w), None

    return jnp.sum(jax.lax.scan(wrap(layer), x, w)[0])


def test_a_batched_product_is_counted_by_hand():
    a, b = jax.ShapeDtypeStruct((2, 3, 5), "float32"), jax.ShapeDtypeStruct((2, 5, 7), "float32")
    assert count_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), a, b) == 2 * 2 * 3 * 5 * 7


def test_loops_count_as_often_as_they_run():
    assert count_flops(through_layers, X, W) == 3 * PRODUCT


def test_the_backward_pass_counts_twice_and_recomputation_once_more():
    gradient = jax.grad(through_layers, argnums=(0, 1))
    assert count_flops(gradient, X, W) == 3 * 3 * PRODUCT
    again = jax.grad(lambda x, w: through_layers(x, w, jax.checkpoint), argnums=(0, 1))
    assert count_flops(again, X, W) == 4 * 3 * PRODUCT


def test_a_loop_that_may_end_early_counts_its_most():
    def decode(x, w):
        def on(carry):
            place, x = carry
            return (place < 5) & jnp.any(x > 0)

        return jax.lax.while_loop(on, lambda carry: (carry[0] + 1, carry[1] @ w[0]), (0, x))

    assert count_flops(decode, X, W) == 5 * PRODUCT


def test_the_costliest_branch_counts():
    def either(x, w):
        branches = (lambda x: x, lambda x: x @ w[0], lambda x: x @ w[0] @ w[1])
        return jax.lax.switch(1, branches, x)

    assert count_flops(either, X, W) == 2 * PRODUCT


def test_what_every_device_does_for_itself_counts_for_all():
    mesh = make_mesh(data=4)
    parts = jax.ShapeDtypeStruct((8, 4, 8), jnp.float32)
    total = add_up(lambda w, x: jnp.sum(x @ w), mesh)
    assert count_flops(total, jax.ShapeDtypeStruct((8, 8), jnp.float32), parts) == 8 * PRODUCT


def test_what_the_compiler_cuts_counts_once():
    """Rows are cut by hand, the width of the product by the compiler."""
    rows = jax.shard_map(
        lambda w, x: x @ w,
        mesh=make_mesh(data=2, tensor=2),
        in_specs=(P(), P("data")),
        out_specs=P("data"),
        axis_names={"data"},
        check_vma=False,
    )
    assert count_flops(rows, jax.ShapeDtypeStruct((8, 8), jnp.float32), X) == PRODUCT


def test_a_kernel_that_cannot_be_counted_is_said():
    from jax.experimental import pallas as pl

    def kernel(x, y):
        y[...] = x[...]

    copy = pl.pallas_call(kernel, out_shape=X, interpret=True)
    with pytest.raises(ValueError, match="Pallas kernel cannot be counted"):
        count_flops(copy, X)
