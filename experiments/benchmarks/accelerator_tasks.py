"""The parts of accelerator.py that are the papers' small tasks: GeneralPoints and ParityMNIST."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from configs import razor_parity
from experiments.benchmarks import gemm, points_programs
from experiments.benchmarks.points_answers import expert_answers
from experiments.benchmarks.points_peers import check, load_twin
from experiments.benchmarks.sweep_parity import make_sweep
from experiments.general_points.play import pack_texts
from rlrazor.runtime.mesh import make_mesh
from rlrazor.tasks.general_points.deck import make_deck
from rlrazor.tasks.general_points.rule import FACES_IN_ORDER

Figures = dict[str, Any]


def verdicts(*, tiny: bool) -> Figures:
    """GeneralPoints answers of an expert, half of them spoilt, judged a second."""
    rule, mesh = FACES_IN_ORDER, make_mesh(data=0)
    on_cpu = jax.default_backend() == "cpu"
    sizes, batches = ((4096,), 8) if on_cpu else ((2**18, 2**20), 1)
    sizes = (256,) if tiny else sizes
    answers = expert_answers(rule, make_deck(rule), 64 if tiny else 1024, seed=0)
    rows = pack_texts(answers.texts, max(map(len, answers.texts)))
    twin = load_twin()
    hands = answers.ranks.tolist()
    truth = [
        twin(text.encode(), hand, rule) for text, hand in zip(answers.texts, hands, strict=True)
    ]
    rates, compiling = {}, {}
    for size in sizes:
        judging = points_programs.judging(
            rows, answers.ranks, rule, mesh, at_once=size, batches=batches
        )
        check(f"{size} at once", judging(), truth)
        rates[size] = judging.count / seconds_of(judging)
        compiling[size] = judging.compile_seconds
    best = max(rates, key=rates.__getitem__)
    return {
        "verdicts_per_second": rates[best],
        "verdicts_per_second_per_device": rates[best] / mesh.size,
        "at_once": best,
        "compile_seconds": compiling[best],
        "row_bytes": rows.shape[1],
    }


def sweep(*, tiny: bool) -> Figures:
    """Milliseconds of a step of the parity study, for one of the runs that share a program."""
    config: Any = razor_parity.get_config()
    mesh = make_mesh(data=0)
    examples, runs, steps = (320, 1, 5) if tiny else (15_000, 256, 234)
    runs *= mesh.size
    config.checkpoints_per_epoch = max(1, examples // config.batch_size // steps)
    train, steps = make_sweep(config, mesh, runs=runs, examples=examples, learning_rate=1e-4)
    flops = gemm.step_flops((785, *config.model.widths, 10), config.batch_size)
    figures: Figures = {"runs": runs, "steps": steps}
    for name, arm in (("sft", "sft1"), ("grpo", "grpo")):
        start = time.perf_counter()
        train(arm)
        first = time.perf_counter() - start
        seconds = seconds_of(functools.partial(train, arm))
        each = seconds / steps / runs
        figures |= {
            f"{name}_ms_per_step_and_run": 1e3 * each,
            f"{name}_flops_per_second_per_device": flops / each / mesh.size,
            f"{name}_compile_seconds": first - seconds,
        }
    return figures


def seconds_of(call: Callable[[], Any], rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
