"""Directions that nobody trained: how far they go, what is read of them, and the whole command."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.razor_null import get_config
from experiments.null import table
from experiments.null.run import check
from rlrazor.analysis.results import load_results
from tests.oracles.scripts import Script


def line(arm, seed, step, kl, lost, rate=0.0, draw=0):
    return {
        "schema": 2, "study": "razor_null", "run": f"{arm}-{rate}-{draw}-{seed}", "arm": arm,
        "method": arm, "variant": "main", "family": "near", "label": arm, "seed": seed,
        "step": step, "updates": 0, "final": False, "diverged": False, "flops": 0.0,
        "flops_teacher": 0.0, "new/accuracy": 0.5, "new/base_accuracy": 0.5,
        "prior/accuracy": 0.9 - lost, "prior/base_accuracy": 0.9,
        "new/kl_base_policy_nats": kl, "prior/kl_base_policy_nats": 2 * kl,
        "new/second_order_nats": kl, "prior/second_order_nats": kl,
        "hyperparameters": {"learning_rate": rate, "draw": draw},
    }  # fmt: skip


def test_rows_read_forgetting_where_a_kl_is_first_reached(tmp_path):
    lines = []
    for seed, slope in ((0, 0.1), (1, 0.2)):
        for draw, more in ((0, 0.0), (1, 0.05)):
            lines += [line("noise", seed, 0, 0.0, 0.0, draw=draw)]
            lines += [line("noise", seed, 1, 2.0, 2 * slope + more, draw=draw)]
        lines += [line("grpo", seed, 1, 0.5 + seed, 0.04, rate=1e-3)]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    noise, grpo = table.rows({"": path}, (1.0,))
    # Halfway to two nats, mean over draws, then over bases.
    assert noise.at[1.0].estimate == pytest.approx(np.mean([0.1 + 0.0125, 0.2 + 0.0125]))
    assert noise.at[1.0].n == 2
    assert (grpo.setting, grpo.at[1.0].n) == ("rate 0.001", 1)  # one base never gets that far
    assert grpo.at[1.0].estimate == pytest.approx(0.04 * 1.0 / 1.5)
    text = table.markdown([noise, grpo], (1.0,))
    assert "| noise |  | 16.3" in text
    assert table.rows({"": path}, (9.0,))[0].at[9.0].n == 0
    found = {(task, at): middle for task, at, _, _, middle, _ in
             table.second_order(load_results(path))}  # fmt: skip
    assert found["new", "1 to 3"] == 1.0
    assert found["prior", "3 to 10"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": ("ppo",)}, "name 'ppo', and config.parity.arms has sft1"),
        ({"lines": ("sft_kl_base_policy",)}, "is anchored; lines lead to free methods"),
        ({"draws": 0}, "must be at least 1"),
        ({"nats.low": 0.0}, "needs 0 < low < high"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(change, message):
    config = get_config("quick")
    for name, value in change.items():
        config.update_from_flattened_dict({name: value})
    with pytest.raises(ValueError, match=message):
        check(config)


@pytest.mark.slow
def test_the_command_walks_to_the_divergences_and_repeats_itself(tmp_path, cache):
    first = Script("razor_null.py", "--config=configs/razor_null.py:quick",
                   f"--workdir={tmp_path}/run", folder=tmp_path, cache=cache)  # fmt: skip
    done = first.wait()
    assert done.status == 0, done.stderr
    whole = (tmp_path / "run" / "null.md").read_text()
    assert whole.strip() in done.stdout
    assert (tmp_path / "run" / "null.png").stat().st_size > 10_000
    results = load_results(tmp_path / "run" / "directions" / "results.jsonl")
    assert set(results.arms) == {"noise", "noise_plain", "line_sft1", "line_grpo"}
    small = (results["step"] == 1).nonzero()[0]
    told, true = results["new/second_order_nats"], results["new/kl_base_policy_nats"]
    np.testing.assert_allclose(told[small], 0.003, rtol=1e-3)  # where the walk is sent to
    np.testing.assert_allclose(true[small], told[small], rtol=0.2)  # and where it arrives
    at_base = results["step"] == 0
    assert not results["forgetting"][at_base].any()
    assert math.isclose(float(np.abs(true[at_base]).max()), 0.0, abs_tol=1e-6)


def test_a_draw_is_its_own_and_noise_has_the_size_of_its_matrix():
    from experiments.null.study import Direction, Directions

    base = {"wide": jnp.full((40, 50), 2.0), "small": jnp.full((30,), 0.01)}
    study = object.__new__(Directions)
    first, again, other = (
        study._step(base, 3, Direction("noise", draw)) for draw in (0, 0, 1)
    )  # fmt: skip
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first, again))
    assert not jnp.array_equal(first["wide"], other["wide"])
    sizes = jax.tree.map(lambda leaf: float(jnp.std(leaf)), first)
    assert sizes["wide"] == pytest.approx(2.0, rel=0.1)
    assert sizes["small"] == pytest.approx(0.01, rel=0.5)
    plain = study._step(base, 3, Direction("noise_plain", 0))
    assert float(jnp.std(plain["small"])) == pytest.approx(1.0, rel=0.5)
