import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmarks.gemm import random_operands, step_flops, step_products
from experiments.benchmarks.parity import summary

SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmarks" / "parity.py"
HAS_TORCH = importlib.util.find_spec("torch") is not None


def test_flops_are_those_of_the_products():
    widths, batch_size, flops = (785, 512, 256, 10), 64, []

    def counting(a, b, name):
        flops.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return a @ b

    inputs, weights = random_operands(widths, batch_size)
    step_products(counting, inputs[0], weights)
    assert sum(flops) == step_flops(widths, batch_size) == 154_206_208
    assert len(flops) == 3 + 3 + 2


def test_products_are_the_gradient_of_a_linear_network():
    inputs, weights = random_operands((7, 5, 4, 3), 6)

    def loss(weights):
        x = inputs[0]
        for weight in weights:
            x = x @ weight
        return 0.5 * (x**2).sum()  # its gradient in the logits is the logits

    ours = step_products(lambda a, b, name: a @ b, inputs[0], weights)
    for mine, exact in zip(ours, jax.grad(loss)(weights), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-4, atol=1e-5)


def test_summary_takes_the_fastest_and_medians():
    times = {
        "sft: rlrazor": [2.0, 1.0, 9.0],
        "sft: PyTorch, a": [5.0, 5.0, 5.0],
        "sft: PyTorch, b": [3.0, 4.0, 90.0],
        "grpo: rlrazor": [4.0, 4.0, 4.0],
        "gemm: JAX": [1.0, 1.0, 1.0],
        "gemm: NumPy": [0.5, 2.0, 2.0],
    }
    table, numbers = summary(times, 3_000_000)
    assert len(table.splitlines()) == 1 + len(times)
    assert numbers["torch_sft_variant"] == "b"
    assert numbers["sft_ratio_to_torch"] == 2.0
    assert numbers["sft_ratio_to_torch_of_minima"] == 3.0
    assert numbers["sft_fraction_of_gemm_peak"] == 0.5
    assert numbers["gemm_library"] == "JAX"
    assert numbers["gemm_gflops"] == 3.0
    assert numbers["grpo_ratio_to_torch"] is None


@pytest.mark.slow
def test_last_line_is_one_json_object():
    flags = ["--repeats=1", "--steps=4", "--examples=320", "--runs=1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    numbers = json.loads(last)
    assert any(line.startswith("sft: rlrazor") for line in table)
    for family in ("sft", "grpo"):
        assert numbers[f"{family}_ms_per_step_and_run"] > 0
        assert 0 < numbers[f"{family}_fraction_of_gemm_peak"] < 2
        ratio, theirs = f"{family}_ratio_to_torch", f"torch_{family}_ms_per_step_and_run"
        for key in (ratio, theirs, f"torch_{family}_variant"):
            assert (numbers[key] is not None) == HAS_TORCH
    assert ("pip install -e '.[bench]'" in done.stdout) != HAS_TORCH
    assert numbers["steps"] == 5  # an epoch of five batches is one chunk
    assert numbers["device"]
    assert set(numbers["versions"]) == {"jax", "torch", "numpy"}
    assert len(numbers["load_average"]) == 2


def test_a_wrong_flag_is_one_sentence():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--repeats=0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "--repeats" in done.stderr
