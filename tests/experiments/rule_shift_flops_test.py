import jax
import jax.numpy as jnp
import pytest

from experiments.rule_shift.arms import ARMS, METHODS
from experiments.rule_shift.flops import _count, compiled_flops, flops_per_iteration
from experiments.rule_shift.programs import sizes_of
from rlrazor.runtime.mesh import make_mesh
from tests.oracles.tiny_shift import make_toy, stacked, tiny_config, toy

pytestmark = pytest.mark.usefixtures("quick_compiles")

# Passes a row and weight, each of 2 FLOPs a token: forward 1, backward 2.
PASSES = {
    "sft": 3, "dft": 3, "psft": 3 + 1, "sft_kl_base_policy": 3 + 1,
    "simpo": 2 * 3, "dpo": 2 * (3 + 1), "self_sft": 1 + 3, "iterative_sft": 1 + 3,
    "grpo": 1 + 3, "grpo_std": 1 + 3, "rloo": 1 + 3, "reinforce": 1 + 3, "dapo": 1 + 3,
    "gspo": 1 + 3, "ppo": 1 + 1 + 4 * 3, "grpo_kl": 1 + 1 + 3,
    "distilled": 1 + 3, "on_policy_distillation": 1 + 1 + 3, "sdft": 1 + 2 + 3,
}  # fmt: skip


def test_the_formula_by_hand():
    config = tiny_config()
    assert set(PASSES) == set(METHODS)
    for name, passes in PASSES.items():
        found = flops_per_iteration(ARMS[name], config, weights=10, tokens=7)
        assert found == 10 * 2 * passes * 24 * 7, name
    turns = ARMS["grpo_turns_3"]
    found = flops_per_iteration(turns, config, weights=10, tokens=7)
    assert found == 10 * 8 * sizes_of(turns, config).rows * 7


def test_a_dense_layer_counts_what_the_formula_says():
    m, k, n = 8, 32, 16
    x, w = jax.ShapeDtypeStruct((m, k), jnp.float32), jax.ShapeDtypeStruct((k, n), jnp.float32)
    assert _count(lambda x, w: x @ w, x, w) == 2 * m * k * n
    both = _count(jax.grad(lambda x, w: jnp.sum(jnp.tanh(x @ w)), argnums=(0, 1)), x, w)
    assert 1 < both / (3 * 2 * m * k * n) < 1.1


DENSE = {"width": 48, "heads": 1, "head_dim": 2, "mlp_width": 192, "scan_layers": True}


def compiled(name, *, layers=1, **changes):
    config, study = tiny_config(**{"rows": 96, **changes}), toy(layers=layers, **DENSE)
    arm = ARMS[name]
    counted = compiled_flops(
        arm, study.context(config), study.player, config, make_mesh(data=1),
        stacked(make_toy()), study.params[0],
    )  # fmt: skip
    weights = sum(leaf.size for leaf in jax.tree.leaves(study.params[0]))
    prompt, answer = 3, config.answer_tokens if arm.how.source != "expert" else 4
    formula = flops_per_iteration(arm, config, weights=weights, tokens=prompt + answer)
    return counted, formula


@pytest.mark.parametrize("name", ["sft", pytest.param("grpo", marks=pytest.mark.slow)])
def test_where_dense_layers_are_nearly_all_the_compiler_agrees_within_a_quarter(name):
    counted, formula = compiled(name)
    assert 0.75 < counted / formula < 1.25


def test_more_rows_and_layers_cost_more():
    first, formula = compiled("sft")
    assert compiled("sft", rows=192)[0] == pytest.approx(2 * first, rel=0.05)
    # As many rows, fewer at a time.
    assert compiled("sft", minibatches=4)[0] == pytest.approx(first, rel=0.05)
    deeper, of_deeper = compiled("sft", layers=2)
    assert deeper / first == pytest.approx(of_deeper / formula, rel=0.1)
