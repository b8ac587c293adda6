"""The papers' formula of FLOPs by hand, and beside what a program's products really cost."""

import functools

import jax
import jax.numpy as jnp
import pytest

from rlrazor.studies.count import count_flops
from rlrazor.studies.flops import flops_per_iteration
from rlrazor.studies.programs import Given, initial
from tests.oracles import toy_study
from tests.oracles.toy_study import METHODS, on_device, setup

# Passes a row and weight, each of 2 FLOPs a token: forward 1, backward 2.
PASSES = {
    "sft": 3, "dft": 3, "eaft": 3, "talr": 3 + 1, "psft": 3 + 1, "sft_kl_base_policy": 3 + 1,
    "sft_kl_prior": 3 + (1 + 1 + 3), "simpo": 2 * 3, "dpo": 2 * (3 + 1),
    "self_sft": 1 + 3, "iterative_sft": 1 + 3,
    "grpo": 1 + 3, "grpo_std": 1 + 3, "rloo": 1 + 3, "reinforce": 1 + 3, "dapo": 1 + 3,
    "gspo": 1 + 3, "ppo": 1 + 1 + 2 * 3, "grpo_kl": 1 + 1 + 3, "rapo": 1 + 1 + 3,
    "distilled": 1 + 3, "on_policy_distillation": 1 + 1 + 3, "sdft": 1 + 2 + 3,
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_formula_by_hand(name):
    found = flops_per_iteration(setup(name), weights=10, tokens=7)
    assert found == 10 * 2 * PASSES[name] * 12 * 7


def counted(name, **sizes):
    made = setup(name, **sizes)
    given = toy_study.given()
    state = jax.eval_shape(functools.partial(initial, made), given, given.base)
    return count_flops(on_device().iteration(made), state, given, on_device().tasks)


def test_more_rows_cost_more_and_fewer_at_a_time_as_much():
    once = counted("sft")
    assert counted("sft", rows=24) == pytest.approx(2 * once, rel=0.05)
    assert counted("sft", rows_at_once=2) == pytest.approx(once, rel=0.05)
    assert counted("psft") > once


def test_shapes_are_enough():
    shapes = jax.eval_shape(toy_study.given)
    assert isinstance(shapes, Given)
    x = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    w = jax.ShapeDtypeStruct((32, 16), jnp.float32)
    assert count_flops(lambda x, w: x @ w, x, w) == 2 * 8 * 32 * 16
