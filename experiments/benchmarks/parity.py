"""Speed of the parity sweep beside a plain PyTorch loop and beside the machine's GEMM rate.

    pip install -e '.[bench]' && python experiments/benchmarks/parity.py [--repeats=7]

(a) the sweep's own training program, (b) PyTorch, (c) the matrix products alone, of the
785-512-256-10 MLP at batch 64 on random data of MNIST's size. Milliseconds a step and run, which
are seconds per 1,000 steps per run, with every core (or the GPU) busy. The measurements take
turns, so that other work on the machine slows all alike. The last line is one JSON object, whose
ratios and fractions are of medians. Two minutes on two CPU cores.
"""

import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.benchmarks.machine import cpu_model

STEPS = flags.DEFINE_integer(
    "steps", 234, "Steps a measured call; rounded up to divide an epoch.", lower_bound=1
)
RUNS = flags.DEFINE_integer("runs", 0, "Runs of a sweep; 0: two a core, or 256 on a GPU.", 0)
REPEATS = flags.DEFINE_integer("repeats", 7, "Rounds of measurements.", lower_bound=1)
EXAMPLES = flags.DEFINE_integer("examples", 60_000, "Training images.", lower_bound=1)

ARMS = {"sft": "sft1", "grpo": "grpo"}
LEARNING_RATE = 1e-4
NO_TORCH = "PyTorch is missing, so there is nothing to compare with: pip install -e '.[bench]'"


def measure(calls: dict[str, tuple[Callable[[], Any], int]], repeats: int) -> dict[str, list]:
    """Milliseconds a step and run of every call (and the steps it does), in turns."""
    for call, _ in tqdm(calls.values(), desc="compile and warm up"):
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, (call, steps) in tqdm([*calls.items()] * repeats, unit=" measurements"):
        start = time.perf_counter()
        call()
        times[name].append(1e3 * (time.perf_counter() - start) / steps)
    return times


def machine(device: Any, cores: int) -> str:
    if device.platform != "cpu":
        return device.device_kind
    return f"{cpu_model() or 'CPU'}, {cores} cores"


def summary(times: dict[str, list], flops: int) -> tuple[str, dict[str, Any]]:
    """The table, and the numbers of the last line; names are `what: which`."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    minima = {name: min(values) for name, values in times.items()}
    width = max(map(len, times))
    lines = [f"{'ms a step and run':{width}}  median     min     max"]
    lines += [
        f"{name:{width}} {medians[name]:7.3f} {minima[name]:7.3f} {max(values):7.3f}"
        for name, values in times.items()
    ]
    limit = min((name for name in times if name.startswith("gemm")), key=medians.__getitem__)
    numbers: dict[str, Any] = {
        "flops_per_step": flops,
        "gemm_gflops": flops / medians[limit] / 1e6,
        "gemm_library": limit.split(": ")[1],
    }
    for family in ARMS:
        ours = f"{family}: rlrazor"
        torch = [name for name in times if name.startswith(f"{family}: PyTorch")]
        best = min(torch, key=medians.__getitem__, default=None)
        numbers |= {
            f"{family}_ms_per_step_and_run": medians[ours],
            f"torch_{family}_ms_per_step_and_run": medians[best] if best else None,
            f"torch_{family}_variant": best.split("PyTorch, ")[1] if best else None,
            f"{family}_ratio_to_torch": medians[best] / medians[ours] if best else None,
            f"{family}_ratio_to_torch_of_minima": minima[best] / minima[ours] if best else None,
            f"{family}_fraction_of_gemm_peak": medians[limit] / medians[ours],
        }
    return "\n".join(lines), {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in numbers.items()
    }


def main(argv: Any) -> None:
    from rlrazor.runtime.mesh import make_mesh, prepare_host

    prepare_host()
    import jax

    from configs import razor_parity
    from experiments.benchmarks import gemm
    from experiments.benchmarks.sweep_parity import make_sweep
    from experiments.benchmarks.workers import Workers, torch_variants

    config: Any = razor_parity.get_config()
    mesh = make_mesh(data=0)
    gpu, cores = jax.default_backend() == "gpu", len(os.sched_getaffinity(0))
    wanted = RUNS.value or (256 if gpu else 2 * mesh.size)
    runs = -(-wanted // mesh.size) * mesh.size
    batches = EXAMPLES.value // config.batch_size
    config.checkpoints_per_epoch = max(1, batches // STEPS.value)
    widths = (785, *config.model.widths, 10)
    flops = gemm.step_flops(widths, config.batch_size)
    settings = {
        "widths": widths,
        "batch_size": config.batch_size,
        "group_size": config.arm.group_size,
        "examples": EXAMPLES.value,
        "learning_rate": LEARNING_RATE,
        "optimizer": config.optimizer.to_dict(),
        "gpu": gpu,
    }
    load = [os.getloadavg()[0]]
    with Workers(1 if gpu else cores, settings) as workers:
        about = workers.about()
        train, steps = make_sweep(
            config, mesh, runs=runs, examples=EXAMPLES.value, learning_rate=LEARNING_RATE
        )

        def ask(processes: int, **request: Any) -> tuple[Callable[[], Any], int]:
            request["steps"] = steps
            return functools.partial(workers.run, request, processes), processes * steps

        compare = bool(about["torch"]) and (about["cuda"] or not gpu)
        products = gemm.make_jax(widths, config.batch_size, runs, mesh, steps=steps)
        calls = {}
        for family, arm in ARMS.items():
            calls[f"{family}: rlrazor"] = (functools.partial(train, arm), runs * steps)
            for name, variant in torch_variants(cores, gpu=gpu).items() if compare else ():
                calls[f"{family}: PyTorch, {name}"] = ask(**variant, task="train", arm=arm)
        calls["gemm: JAX"] = (products, runs * steps)
        for name, library in {} if gpu else {"NumPy": "numpy", "PyTorch": "torch"}.items():
            if about[library]:
                calls[f"gemm: {name}"] = ask(cores, task="gemm", library=library)
        times = measure(calls, REPEATS.value)
    load.append(os.getloadavg()[0])
    table, numbers = summary(times, flops)
    print(table)
    if not about["torch"]:
        print(NO_TORCH)
    numbers |= {
        "ms_min_median_max": {
            name: [round(f(values), 4) for f in (min, statistics.median, max)]
            for name, values in times.items()
        },
        "device": machine(jax.devices()[0], cores),
        "runs": runs,
        "steps": steps,
        "repeats": REPEATS.value,
        "load_average": [round(value, 1) for value in load],
        "versions": {"jax": jax.__version__, "torch": about["torch"], "numpy": about["numpy"]},
    }
    print(json.dumps(numbers))


if __name__ == "__main__":
    cli.run(main)
