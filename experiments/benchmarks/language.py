"""Speed of language training beside TRL, plain PyTorch and the machine's GEMM rate, in one run.

    python experiments/benchmarks/language.py [--rounds=5] [--peer_python=PATH] [--tpu]

Timed are the programs of `rlrazor.studies`, with the options of `configs/sft_memorizes_gp_l.py`,
which are printed: (1) an SFT step of 64 rows of 128 tokens and (2) a GRPO iteration of 16 prompts
with 8 answers each (64 + 64 tokens, none stops early), as one compiled program and as rollout and
update apart, of a language model of 4.07 million parameters in float32; in every core, or on the
GPU. Peers are TRL's trainers and a plain loop with transformers' Llama of the same shape, where
--peer_python (this interpreter, if not given) has them; the limit is the products of the same
matrices and nothing else. The measurements take turns, so that other work on the machine slows all
alike; ratios are of medians. What larger models reach on a GPU or TPU, accelerator.py says. --tpu
only compiles, for a TPU v5e of eight chips that need not be there (needs libtpu). The last line is
one JSON object. Three minutes on two CPU cores.
"""

import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.benchmarks.machine import cpu_model, rounded

ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Rounds of measurements.", lower_bound=1,
    allow_override=True,  # a test may import another benchmark too
)  # fmt: skip
PEER_PYTHON = flags.DEFINE_string("peer_python", sys.executable, "Interpreter of the peers.")
QUICK = flags.DEFINE_bool("quick", False, "A tiny model and tiny sizes: does it run at all?")
TPU = flags.DEFINE_bool("tpu", False, "Only compile, for a TPU v5e:2x4.")

TORCH = Path(__file__).with_name("torch_language.py")
PEERS = ("transformers", "trl")
NO_PEER = "transformers and PyTorch are missing there, so there is nothing to compare with"
NO_CUDA = "PyTorch sees no GPU there, so there is nothing to compare with"
Seconds = dict[str, float]  # a measured time by its name


class Peer:
    """A process of torch_language.py; it ends when its input does."""

    def __init__(self, python: str, role: str, settings: dict[str, Any]):
        self._process: Any = subprocess.Popen(
            [python, str(TORCH), role, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, task: str = "") -> dict[str, Any]:
        self._process.stdin.write(json.dumps({"task": task}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended; run it by hand to see why")
        return json.loads(line)

    def end(self) -> None:
        self._process.communicate()


def about_peers(python: str) -> dict[str, Any]:
    """Versions of what the interpreter has of them."""
    ran = subprocess.run([python, str(TORCH), "about"], capture_output=True, text=True, check=False)
    return json.loads(ran.stdout) if ran.returncode == 0 else {"versions": {}, "cuda": False}


def measure(
    calls: dict[str, Callable[[], Seconds]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of everything, in turns; and how much longer the first calls took: compiling.

    Calls are named "who, what", and what they measure, in both results, "who: part".
    """
    compiling: dict[str, float] = {}
    for name, call in tqdm(calls.items(), desc="warm up"):
        first, second = call(), call()
        compiling |= {_whose(name, part): first[part] - second[part] for part in first}
    times: dict[str, list[float]] = {}
    for name, call in tqdm([*calls.items()] * rounds, unit=" measurements"):
        for part, seconds in call().items():
            times.setdefault(_whose(name, part), []).append(seconds)
    return times, compiling


def _whose(name: str, part: str) -> str:  # "trl, sft", "sft_step" -> "trl: sft_step"
    return f"{name.partition(', ')[0]}: {part}"


def timed(part: str, call: Callable[[], Any]) -> Seconds:
    """Of a call that returns when all is computed."""
    start = time.perf_counter()
    call()
    return {part: time.perf_counter() - start}


def summary(times: dict[str, list[float]], flops: dict[str, float]) -> tuple[str, dict[str, Any]]:
    """The table, and the numbers of the last line."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    width = max(map(len, times))
    lines = [f"{'seconds':{width}}  median     min     max"]
    lines += [
        f"{name:{width}} {medians[name]:7.3f} {min(values):7.3f} {max(values):7.3f}"
        for name, values in times.items()
    ]
    gemm = min(seconds for name, seconds in medians.items() if name.startswith("gemm"))
    rate = flops["gemm"] / gemm
    numbers: dict[str, Any] = {"gemm_gflops": rate / 1e9}
    parts = ("sft_step", "grpo_iteration", "grpo_rollout", "grpo_update")
    for part in parts:
        ours = medians[f"rlrazor: {part}"]
        numbers[f"{part}_seconds"] = ours
        numbers[f"{part}_seconds_min"] = min(times[f"rlrazor: {part}"])
        numbers[f"{part}_limit_seconds"] = flops[part] / rate
        numbers[f"{part}_fraction_of_limit"] = flops[part] / rate / ours
        for peer in PEERS:
            theirs = medians.get(f"{peer}: {part}")
            numbers[f"{peer}_{part}_seconds"] = theirs
            numbers[f"{part}_ratio_to_{peer}"] = theirs / ours if theirs else None
        ratios = [numbers[f"{part}_ratio_to_{peer}"] for peer in PEERS]
        known = [ratio for ratio in ratios if ratio is not None]
        numbers[f"{part}_ratio_to_faster_peer"] = min(known, default=None)
    return "\n".join(lines), numbers


def renamed(of_peer: dict[str, float], task: str) -> Seconds:
    if task == "sft":
        return {"sft_step": of_peer["seconds"]}
    return {
        "grpo_iteration": of_peer["seconds"],
        "grpo_rollout": of_peer["rollout"],
        "grpo_update": of_peer["update"],
    }


def start_peers(
    python: str,
    settings: dict[str, Any],
    have: dict[str, Any],  # of `about_peers`
) -> tuple[list[Peer], dict[str, Callable[[], Seconds]]]:
    """Those that are installed, with what they do by its name: "transformers, sft"."""
    if not ({"torch", "transformers"} <= set(have["versions"])):
        print(NO_PEER)
        return [], {}
    if settings["gpu"] and not have["cuda"]:
        print(NO_CUDA)
        return [], {}
    roles = {"transformers": ("sft", "grpo"), "trl_sft": ("sft",), "trl_grpo": ("grpo",)}
    peers: list[Peer] = []
    calls: dict[str, Callable[[], Seconds]] = {}
    for role, tasks in roles.items():
        name = role.partition("_")[0]
        if name in have["versions"]:
            peers.append(Peer(python, role, settings))
            for task in tasks:
                calls[f"{name}, {task}"] = lambda peer=peers[-1], task=task: renamed(
                    peer.ask(task), task
                )
    return peers, calls


def config_for(platform: str) -> Any:
    """The rule-shift study's, as it runs on a CPU or on a GPU or TPU."""
    from configs.sft_memorizes_gp_l import get_config

    return get_config("cpu" if platform == "cpu" else "full")


def main(argv: Any) -> None:
    from rlrazor.runtime.mesh import make_mesh, prepare_host

    prepare_host()
    import jax

    from experiments.benchmarks import language_limit as limit
    from experiments.benchmarks import language_programs as programs
    from rlrazor.methods import methods
    from rlrazor.studies.programs import Optimization

    platform, cores = jax.default_backend(), len(os.sched_getaffinity(0))
    config = config_for("tpu" if TPU.value else platform)
    computing = {"compute_dtype": config.compute_dtype, "remat": config.remat}
    shape = dataclasses.replace(programs.TINY if QUICK.value else programs.SMALL, **computing)
    sizes = programs.QUICK if QUICK.value else programs.Sizes()
    optimization = Optimization(**config.optimizer)
    options = programs.Options(config.rows_at_once, config.vocabulary_chunk, optimization)
    if TPU.value:
        print(json.dumps(rounded(programs.compile_for_tpu(shape, sizes, options))))
        return
    mesh = make_mesh(**config.mesh)
    used = computing | {
        "scan_layers": shape.scan_layers,
        "rows_at_once": options.rows_at_once,
        "vocabulary_chunk": options.vocabulary_chunk,
        "mesh": dict(mesh.shape),
    }
    print("options:", json.dumps(used))
    python = PEER_PYTHON.value
    load, peers_have = [os.getloadavg()[0]], about_peers(python)
    engine = programs.Engine(shape, sizes, mesh, options)
    calls: dict[str, Callable[[], Seconds]] = {}
    for part, call in programs.calls_of(engine).items():
        calls[f"rlrazor, {part}"] = functools.partial(timed, part, call)
    for rows in limit.ROWS:
        products = limit.make(shape, sizes, mesh, rows=rows)
        calls[f"gemm, {rows} rows"] = functools.partial(timed, f"{rows} rows", products)
    settings = {
        "model": dataclasses.asdict(shape),
        "sizes": dataclasses.asdict(sizes),
        "gpu": platform != "cpu",
        "cores": cores,
        "learning_rate": programs.LEARNING_RATE,
        "clip_by_global_norm": optimization.clip_by_global_norm,
        "clip": methods.grpo.knobs["clip_low"],
    }
    peers, of_peers = start_peers(python, settings, peers_have)
    try:
        times, compiling = measure(calls | of_peers, ROUNDS.value)
    finally:
        for peer in peers:
            peer.end()
    load.append(os.getloadavg()[0])
    flops = limit.useful_flops(shape, sizes)
    table, numbers = summary(times, flops)
    print(table)
    numbers |= {
        "sft_compile_seconds": compiling["rlrazor: sft_step"],
        "grpo_compile_seconds": compiling["rlrazor: grpo_iteration"],
        "flops": flops,
        "parameters": engine.parameters,
        "options": used,
        "device": f"{cpu_model()}, {cores} cores"
        if platform == "cpu"
        else jax.devices()[0].device_kind,
        "devices": mesh.size,
        "rounds": ROUNDS.value,
        "load_average": load,
        "versions": {"jax": jax.__version__, **peers_have["versions"]},
    }
    print(json.dumps(rounded(numbers)))


if __name__ == "__main__":
    cli.run(main)
