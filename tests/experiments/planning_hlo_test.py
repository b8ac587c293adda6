"""Exchanges between devices, as compiled: how many bytes, and how often."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.planning.hlo import Collective, collectives_of
from rlrazor.runtime.mesh import compile_once, make_mesh

MESH = make_mesh(data=4)
LAYERS, WIDTH, ROWS = 5, 16, 8


def shape(size, *axes):
    return jax.ShapeDtypeStruct(size, jnp.float32, sharding=NamedSharding(MESH, P(*axes)))


def compiled(fn, *arguments):
    return collectives_of(compile_once(fn).lower(*arguments).compile().as_text())


def test_weights_gathered_layer_by_layer_count_once_a_layer():
    """Rows and weights both lie cut over the devices: a device must gather what it lacks."""

    def loss(w, x):
        def layer(x, w):
            return jax.lax.with_sharding_constraint(x @ w, NamedSharding(MESH, P("data"))), None

        return jax.lax.scan(layer, x, w)[0]

    found = compiled(
        loss, shape((LAYERS, WIDTH, WIDTH), None, "data"), shape((ROWS, WIDTH), "data")
    )
    assert found == [Collective("all-gather", 3 / 4 * WIDTH * WIDTH * 4, 4, LAYERS)]


def test_a_sum_over_devices_goes_around_the_ring_twice():
    found = compiled(lambda x: jnp.sum(x, axis=0), shape((ROWS, WIDTH), "data"))
    assert found == [Collective("all-reduce", 2 * 3 / 4 * WIDTH * 4, 4, 1)]


def test_nothing_is_sent_where_nothing_need_be():
    assert compiled(lambda x: x + 1, shape((ROWS, WIDTH), "data")) == []


HEAD = "HloModule jit_f, num_partitions=8\n\n"


def program(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"{HEAD}ENTRY %main (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "%r = bf16[2,8]{1,0} reduce-scatter(%x), replica_groups=[2,4]<=[8], dimensions={0}",
            Collective("reduce-scatter", 3 * 32, 4, 1),
        ),
        (
            "%a = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), replica_groups={{0,1},{2,3}}",
            Collective("all-gather", 32 / 2, 2, 1),
        ),
        (
            "%c = f32[4]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}",
            Collective("collective-permute", 16, 2, 1),
        ),
        (
            "%s = (f32[4]{0}, bf16[4]{0}) all-reduce(%p, %q), replica_groups={}, to_apply=%add",
            Collective("all-reduce", 2 * 24 * 7 / 8, 8, 1),
        ),
    ],
)
def test_every_kind_of_exchange_is_weighed(line, expected):
    assert collectives_of(program(line)) == [expected]


def test_the_pieces_of_one_asynchronous_exchange_count_once():
    piece = "%{} = f32[8]{{0}} all-gather(%p), channel_id=6, replica_groups=[2,4]<=[8]"
    text = program(piece.format("a"), piece.format("b"))
    assert len(collectives_of(text)) == 1


def test_exchanges_that_the_program_writes_out_may_share_a_channel():
    """As those of a `shard_map` do."""
    line = "%{} = f32[{}]{{0}} {}(%p), channel_id=1, replica_groups=[2,4]<=[8]{}"
    text = program(
        line.format("a", 8, "all-gather", ""),
        line.format("b", 8, "all-reduce", ""),
        line.format("c", 16, "all-reduce", ""),
        line.format("d", 16, "all-reduce", ', metadata={op_name="the gradient"}'),
    )
    assert len(collectives_of(text)) == 4


def test_a_loop_without_a_known_count_runs_to_its_limit():
    text = (
        HEAD
        + "%body (p: s32[]) -> s32[] {\n"
        + "  %r = f32[8]{0} all-reduce(%x), replica_groups=[2,4]<=[8]\n}\n\n"
        + "%cond (p: s32[]) -> pred[] {\n"
        + "  %c = s32[]{:T(128)} constant(36)\n"
        + "  ROOT %lt = pred[] compare(%p, %c), direction=LT\n}\n\n"
        + "ENTRY %main (p: s32[]) -> s32[] {\n"
        + "  ROOT %w = s32[] while(%p), condition=%cond, body=%body\n}\n"
    )
    assert collectives_of(text) == [Collective("all-reduce", 2 * 32 * 3 / 4, 4, 36)]


def test_a_loop_that_counts_in_twos_turns_half_as_often():
    """As the compiler's own loops over the devices of a ring do."""
    text = (
        HEAD
        + "%body (p: (f32[8], u32[])) -> (f32[8], u32[]) {\n"
        + "  %c = u32[]{:T(128)} constant(2)\n"
        + "  %one = u32[]{:T(128)} constant(1)\n"
        + "  %i = u32[]{:T(128)} get-tuple-element(%p), index=1\n"
        + "  %other = u32[]{:T(128)} add(%i, %one)\n"
        + "  %next = u32[]{:T(128)S(6)} add(%i, %c)\n"
        + "  %r = f32[8]{0} collective-permute(%x), source_target_pairs={{0,1}}\n"
        + "  ROOT %t = (f32[8]{0}, /*index=1*/u32[]{:T(128)}) tuple(%r, /*index=1*/%next)\n}\n\n"
        + "%cond (p: (f32[8], u32[])) -> pred[] {\n"
        + "  %c = u32[]{:T(128)} constant(8)\n"
        + "  %i = u32[]{:T(128)} get-tuple-element(%p), index=1\n"
        + "  ROOT %lt = pred[] compare(%i, %c), direction=LT\n}\n\n"
        + "ENTRY %main (p: (f32[8], u32[])) -> (f32[8], u32[]) {\n"
        + "  ROOT %w = (f32[8]{0}, u32[]) while(%p), condition=%cond, body=%body\n}\n"
    )
    assert collectives_of(text) == [Collective("collective-permute", 32.0, 2, 4)]


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="not a compiled program"):
        collectives_of("hello")
