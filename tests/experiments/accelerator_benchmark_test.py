import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import (
    accelerator,
    accelerator_language,
    accelerator_losses,
    accelerator_tasks,
)
from experiments.benchmarks.accelerator import PARTS, chosen, in_budget
from experiments.benchmarks.accelerator_losses import differences, loss_on, random_rows
from experiments.benchmarks.language_programs import TINY
from rlrazor.methods import methods
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.hardware import ACCELERATORS, Accelerator
from tests.oracles.scripts import Script

SHARES = {"sft": "mfu", "decode": "bandwidth_share"}


class Clock:
    """Time that passes when parts say so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def part(self, seconds, error=None):
        def run():
            self.now += seconds
            if error:
                raise error
            return {"figure": seconds}

        return run


def test_a_part_that_fails_says_why_and_the_next_goes_on():
    clock = Clock()
    parts = {"a": clock.part(1, MemoryError("out of\n memory")), "b": clock.part(2)}
    found = dict(in_budget(parts, {"a": 1, "b": 1}, 100, clock))
    assert found["a"] == {"error": "MemoryError: out of memory", "wall_seconds": 1}
    assert found["b"] == {"figure": 2, "wall_seconds": 2}


def test_what_would_not_fit_is_skipped_at_the_pace_so_far():
    clock = Clock()
    seconds = {"a": 20, "b": 50, "c": 60, "d": 10}
    parts = {name: clock.part(takes) for name, takes in seconds.items()}
    expected = {"a": 10, "b": 25, "c": 30, "d": 5}
    found = dict(in_budget(parts, expected, 100, clock))
    assert [*found] == ["a", "b", "c", "d"]
    assert "60 s would not fit: 70 of 100 s" in found["c"]["skipped"]
    assert found["d"]["wall_seconds"] == 10
    clock.now = 100
    quick = {name: clock.part(1) for name in "abcd"}
    assert all("figure" in each for _, each in in_budget(quick, expected, 40, clock))


def test_nothing_runs_that_was_not_expected_to_end_in_time():
    clock = Clock()
    found = dict(in_budget({"a": clock.part(1)}, {"a": 60}, 30, clock))
    assert "skipped" in found["a"]


def test_parts_are_chosen_by_name_and_run_in_order():
    assert chosen([]) == [*PARTS]
    assert chosen(["sweep", "sft-0.5B"]) == ["sft-0.5B", "sweep"]
    with pytest.raises(ValueError, match=r"--parts=sft-9B must be of sft-0.5B"):
        chosen(["sft-9B"])


def test_every_part_has_its_function(monkeypatch):
    def named(name):
        return lambda *model, tiny, **how: (name, *model, *how.values())

    for module, names in (
        (accelerator_language, ("sft", "decode", "grpo")),
        (accelerator_losses, ("losses",)),
        (accelerator_tasks, ("verdicts", "sweep")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, named(name))
    found = {name: accelerator.figures_of(name, tiny=True) for name in PARTS}
    assert found["sft-0.5B-8"] == ("sft", "0.5B", 8)
    assert found["sft-3B"] == ("sft", "3B", None)
    assert found["decode-1.5B"] == ("decode", "1.5B")
    assert found["losses"] == ("losses",)
    assert all(each[0] == name.split("-")[0] for name, each in found.items())


@pytest.mark.parametrize(
    ("model", "device", "dtype"),
    [
        ("0.5B", "TPU v5 lite", "float32"),
        ("1.5B", "NVIDIA H100 80GB HBM3", "float32"),
        ("3B", "NVIDIA H100 80GB HBM3", "bfloat16"),
        ("3B", "NVIDIA H200", "float32"),
    ],
)
def test_parameters_that_would_not_fit_in_f32_are_in_bf16(monkeypatch, model, device, dtype):
    monkeypatch.setattr(accelerator_language, "peak", lambda: ACCELERATORS[device])
    monkeypatch.setattr(
        accelerator_language,
        "make_mesh",
        lambda **_: jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor")),
    )
    engine, said = accelerator_language.make_engine(model, accelerator_language.SFT, tiny=False)
    assert said["param_dtype"] == said["mu_dtype"] == engine.shape.param_dtype == dtype
    assert engine.sft.optimization.nu_dtype == dtype
    assert said["compute_dtype"] == "bfloat16"
    assert engine.parameters == pytest.approx(float(model[:-1]) * 1e9, rel=0.05)
    assert said["rows_at_once"] == engine.sft.sizes.rows_at_once == 1


@pytest.fixture(scope="module")
def params():
    return jax.jit(Transformer(TINY).init)(jax.random.key(0), np.zeros((1, 2), np.int32))


@pytest.mark.parametrize("method", [methods.sft, methods.grpo], ids=lambda method: method.name)
def test_a_wrong_loss_and_a_wrong_gradient_are_seen(params, method, quick_compiles):
    rows = random_rows(TINY.vocabulary, rows=8, tokens=24)
    first, other = jax.devices()[:2]
    truth = loss_on(first, TINY, method, params, rows)
    assert differences(truth, truth) == (0, 0)
    assert truth[0] != 0
    rounded = differences(loss_on(other, TINY, method, params, rows, "bfloat16"), truth)
    assert 0 < rounded[0] < 0.01
    assert 0 < rounded[1] < 0.1
    loss, gradient = truth
    off = jax.tree.map(lambda leaf: leaf.copy(), gradient)
    embedding = off["params"]["embed"]["embedding"]
    embedding[3, 4] += 0.5 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    apart, share = differences((loss + 1, off), truth)
    assert apart == pytest.approx(1)
    assert share == pytest.approx(0.5)


def test_some_ratios_are_clipped_and_prompts_are_shared(params):
    rows = random_rows(TINY.vocabulary, rows=8, tokens=64)
    ratio = np.exp(-np.log(TINY.vocabulary) - rows.behaviour_logprobs[rows.mask])
    assert 0.1 < np.mean(np.abs(ratio - 1) > 0.2) < 0.9
    np.testing.assert_array_equal(rows.tokens[0, :16], rows.tokens[3, :16])
    assert np.any(rows.tokens[0, :16] != rows.tokens[4, :16])
    assert np.all(rows.mask.sum(axis=1) == rows.count - 16)


@pytest.mark.slow
def test_tiny_measures_everything_on_a_cpu(tmp_path, cache):
    done = Script("benchmarks/accelerator.py", "--tiny", folder=tmp_path, cache=cache).wait()
    assert done.status == 0, done.stderr
    about, unknown, *lines, last = done.stdout.splitlines()
    assert about.startswith("on {")
    assert "null" in unknown
    numbers = json.loads(last)
    assert [line.split(" ")[0] for line in lines] == [*PARTS]
    for line in lines:
        name, _, figures = line.partition(" ")
        assert numbers[name] == json.loads(figures)
        assert not {"error", "skipped"} & set(numbers[name]), line
        kind = name.split("-")[0]
        if kind in SHARES:
            assert numbers[name][SHARES[kind]] is None  # a CPU's peak is not known
    assert numbers["sft-0.5B"]["tokens_per_second_per_device"] > 0
    assert numbers["sft-0.5B-8"]["rows_at_once"] == 8
    parts = ("rollout", "judging", "update")
    whole = sum(numbers["grpo-0.5B"][f"{part}_seconds"] for part in parts)
    assert 0 < whole < 2 * numbers["grpo-0.5B"]["iteration_seconds"]
    assert numbers["losses"]["sft_f32_highest_gradient"] == 0
    assert numbers["verdicts"]["verdicts_per_second"] > 0
    assert numbers["sweep"]["grpo_ms_per_step_and_run"] > 0


def test_shares_are_of_the_peak(monkeypatch, quick_compiles):
    monkeypatch.setattr(
        accelerator_language, "peak", lambda: Accelerator("toy", 1e9, 1e12, 1e6, 1.0)
    )
    found = accelerator_language.decode("0.5B", tiny=True)
    assert found["bandwidth_share"] == found["bytes_per_second_per_device"] / 1e6
    assert found["answers"] == 8


def test_a_wrong_part_is_one_sentence(tmp_path, cache):
    done = Script("benchmarks/accelerator.py", "--parts=all", folder=tmp_path, cache=cache).wait()
    assert done.status == 2
    assert "--parts=all must be of sft-0.5B" in done.sentence
