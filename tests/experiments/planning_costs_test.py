"""What a program needs and how long it takes at least, from what its compilation says."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from experiments.planning.costs import Cost, Needs, Time, bytes_on_device, cost_of, least_time
from experiments.planning.hlo import Collective
from experiments.planning.table import describe, figures
from experiments.planning.topology import chips_of
from rlrazor.runtime.hardware import Accelerator
from rlrazor.runtime.mesh import compile_once, make_mesh, on_mesh

CHIP = Accelerator("toy", flops=100.0, memory=5000.0, memory_bandwidth=10.0, link_bandwidth=4.0)
MESH = make_mesh(data=4)


def shape(size, *axes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(size, dtype, sharding=on_mesh(MESH, *axes))


def test_a_device_holds_its_share():
    tree = {"cut": shape((8, 3), "data"), "whole": shape((5,), dtype=jnp.bfloat16)}
    assert bytes_on_device(tree) == 8 * 3 * 4 / 4 + 5 * 2


def test_time_is_that_of_the_slowest():
    sent = [Collective("all-gather", 4.0, 2, 3), Collective("all-reduce", 8.0, 2, 1)]
    time = least_time(500.0, 40.0, sent, CHIP)
    assert time == Time(compute=5.0, memory=4.0, links=5.0)
    assert (time.least, time.bound) == (5.0, "compute")
    assert least_time(0.0, 40.0, sent, CHIP).bound == "links"


def cost(limit=5000.0, held=(), **known):
    program = compile_once(lambda w, x: jnp.sum(x @ w, axis=0) + jnp.sum(w))
    lowered = program.lower(shape((16, 16)), shape((8, 16), "data"))
    chip = Accelerator("toy", 100.0, limit, 10.0, 4.0)
    held = {"parameters": 1024.0, **dict(held)}
    given = {"read": 1024.0, "made": {}, "flops": 7.0, "traffic": 1.0, **known}
    return cost_of(lowered, held=held, accelerator=chip, **given)


def test_needs_add_up_to_what_the_compiler_says():
    found = cost()
    assert found.needs.named == {"parameters": 1024.0}
    assert found.needs.working >= 2 * 16 * 4  # the device's rows at least
    assert found.needs.fits
    assert found.sent()["all-reduce"] > 0
    unread = dataclasses.replace(found, collectives=None)
    assert unread.sent() is None
    assert "not known" in describe(CONFIG, "sft", {"learn": unread}, "v6e:2x4")
    more = cost(held={"base": 300.0}, made={"cache": 100.0})
    assert more.needs.total == found.needs.total + 300
    assert more.needs.working == found.needs.working - 100
    assert more.beside({"parameters": 1024.0}).needs.total == found.needs.total
    assert not cost(limit=1000.0).needs.fits


def refused(message):
    def compile():
        raise RuntimeError(message)

    return types.SimpleNamespace(compile=compile)


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Used 20.5G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (20.5G) exceeds available HBM (15.75G).",
    ],
)
def test_a_program_that_is_too_large_is_said_to_be_so(message):
    found = cost_of(
        refused(message), held={"parameters": 2.0**30, "base": 2.0**29}, read=2.0**30, made={},
        flops=1.0, traffic=1.0, accelerator=CHIP,
    )  # fmt: skip
    assert found.needs.total == 21 * 2**30  # the base lies beside what the compiler knows of
    assert found.needs.working == 19.5 * 2**30
    assert found.needs.limit == 15.75 * 2**30
    assert not found.needs.fits
    assert found.time is None


def test_other_troubles_are_not_hidden():
    with pytest.raises(RuntimeError, match="no such chip"):
        cost_of(refused("no such chip"), held={}, read=0.0, made={}, flops=1.0, traffic=1.0,
                accelerator=CHIP)  # fmt: skip


CONFIG = types.SimpleNamespace(
    model="m", mesh={"data": 1, "fsdp": 4, "tensor": 1}, rows_at_once=2,
    param_dtype="float32",
)  # fmt: skip


def test_the_table_says_what_fits_and_what_does_not():
    gib = 2**30
    fits = Cost(Needs({"parameters": 2.0 * gib}, gib, 4 * gib), {}, 3e12, (), Time(2.0, 1.0, 0.5))
    over = Cost(Needs({"parameters": 2.0 * gib}, 3.0 * gib, 4.0 * gib), {}, 3e12, (), None)
    said = describe(CONFIG, "sft", {"learn": fits, "answer": fits}, "v5e:2x2")
    assert "parameters 2.00, working 1.00: 3.00 of 4.00; fits, 1.00 to spare" in said
    assert "a step takes at least 2.00 s" in said  # measuring is no part of it
    said = describe(CONFIG, "sft", {"learn": over}, "v5e:2x2")
    assert "DOES NOT FIT, 1.00 over" in said
    assert "at least" not in said
    (line,) = figures(CONFIG, "sft", {"learn": fits}, "v5e:2x2")
    assert (line["fits"], line["bound"], line["gib"]["working"]) == (True, "compute", 1.0)


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "v5e:4", "v5e:4x4x4x4", "h100:2x2", "v5e:axb"])
def test_a_topology_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"--topology='{name}' must be one of v4, v5e, v5p, v6e"):
        chips_of(name)
