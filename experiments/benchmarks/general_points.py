"""Speed of GeneralPoints: verdicts, beside two ways to judge in Python, and hands dealt and drawn.

    python experiments/benchmarks/general_points.py [--rounds=15]

Verdicts are of whole JSON answers, half of them right: with formulas of 64 bytes (needless brackets
and blanks make up the length) and as an expert writes them. Every core (or the GPU) judges; the
peers, the slow exact twin of the tests and string tokens in Python's parser, have one core. All
flags of all answers must first agree with the twin's. The measurements take turns, so that other
work on the machine slows all alike; rates and ratios are of medians, ratios of one core (or GPU) to
one core. The last line is one JSON object. A minute on two CPU cores.
"""

import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.benchmarks.machine import cpu_model

ROUNDS = flags.DEFINE_integer(
    "rounds", 15, "Rounds of measurements.", lower_bound=1,
    allow_override=True,  # a test may import another benchmark too
)  # fmt: skip
SECONDS = flags.DEFINE_float("seconds", 0.25, "Of a measurement, at least.", lower_bound=1e-3)
DISTINCT = flags.DEFINE_integer("distinct", 2048, "Different answers.", lower_bound=2)
ANSWERS = flags.DEFINE_integer(
    "answers", 0, "Answers judged at once on a device; 0: 4,096, on a GPU the best of a few.", 0
)
HANDS = flags.DEFINE_integer("hands", 65_536, "Hands dealt in a call.", lower_bound=1)
PICTURES = flags.DEFINE_integer("pictures", 256, "Hands drawn in a call.", lower_bound=1)

FORMULA = 64  # bytes
ON_CPU, ON_GPU = (4096,), (2**16, 2**18, 2**20, 2**21)  # a CPU wants what fits its cache
BATCHES = 8  # in a call on a CPU, so that starting it costs nothing
LONG, EXPERT = f"{FORMULA}-byte formulas", "expert answers"
DEALT, DRAWN = "hands dealt", "hands dealt and drawn"


def measure(calls: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, list[float]]:
    """How many of its things per second every call does, in turns."""
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for name, (call, count) in tqdm([*calls.items()] * rounds, unit=" measurements"):
        call()  # what ran before had one core, or all: lets the threads find theirs again
        start, done = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < SECONDS.value:
            call()
            done += count
        rates[name].append(done / seconds)
    return rates


def summary(rates: dict[str, list[float]], devices: int) -> tuple[str, dict[str, Any]]:
    """The table, and the numbers of the last line."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    width = max(map(len, rates))
    lines = [f"{'per second':{width}} {'median':>13} {'best':>13}"]
    lines += [f"{n:{width}} {medians[n]:13,.0f} {max(rates[n]):13,.0f}" for n in rates]

    def verdicts(kind: str) -> dict[str, float]:
        device = {n: r for n, r in medians.items() if n.startswith(f"{kind}: rlrazor")}
        ours = max(device.values()) / devices
        return {
            "verdicts_per_second": ours * devices,
            "verdicts_per_second_per_core": ours,
            "ratio_to_python_twin": ours / medians[f"{kind}: Python twin, one core"],
            "ratio_to_string_eval": ours / medians[f"{kind}: string eval, one core"],
        }

    numbers = verdicts(LONG) | {
        "hands_dealt_per_second": medians[DEALT],
        "hands_drawn_per_second": medians[DRAWN],
        "expert_answers": verdicts(EXPERT),
        "median_and_best": {name: [medians[name], max(values)] for name, values in rates.items()},
    }
    return "\n".join(lines), _rounded(numbers)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return (round(value) if value >= 1000 else round(value, 2)) if type(value) is float else value


def main(argv: Any) -> None:
    from rlrazor.runtime.mesh import make_mesh, prepare_host

    prepare_host()
    import jax

    from experiments.benchmarks import points_programs as programs
    from experiments.benchmarks.points_answers import expert_answers, lengthen
    from experiments.benchmarks.points_peers import check, load_twin, string_eval
    from experiments.general_points.play import pack_texts
    from rlrazor.tasks.general_points.deck import make_deck
    from rlrazor.tasks.general_points.rule import FACES_IN_ORDER

    twin, mesh, rule = load_twin(), make_mesh(data=0), FACES_IN_ORDER
    sizes, batches = (ON_CPU, BATCHES) if jax.default_backend() == "cpu" else (ON_GPU, 1)
    sizes = (ANSWERS.value,) if ANSWERS.value else sizes
    load, deck = [os.getloadavg()[0]], make_deck(rule)
    expert = expert_answers(rule, deck, DISTINCT.value, seed=0)
    compiled: dict[str, programs.Program] = {}
    calls: dict[str, tuple[Callable[[], Any], int]] = {}
    row_bytes, refused = {}, {}
    for kind, answers in {LONG: lengthen(expert, FORMULA, seed=0), EXPERT: expert}.items():
        texts, hands = answers.texts, answers.ranks.tolist()
        exact = [*zip([text.encode() for text in texts], hands, strict=True)]
        quick = [*zip(texts, [[rule.values[r - 1] for r in hand] for hand in hands], strict=True)]
        truth = [twin(text, hand, rule) for text, hand in exact]
        row_bytes[kind] = max(map(len, texts))
        rows = pack_texts(texts, row_bytes[kind])
        for size in sizes:
            name = f"{kind}: rlrazor, {size:,} at once"
            compiled[name] = programs.judging(
                rows, answers.ranks, rule, mesh, at_once=size, batches=batches
            )
            check(name, compiled[name](), truth)
        exactly = functools.partial(_each, twin, exact, rule)
        quickly = functools.partial(_each, string_eval, quick, rule.target)
        calls[f"{kind}: Python twin, one core"] = exactly, len(texts)
        calls[f"{kind}: string eval, one core"] = quickly, len(texts)
        refused[kind] = sum(
            right != verdict["correct"] for right, verdict in zip(quickly(), truth, strict=True)
        )
    compiled[DEALT] = programs.dealing(deck, mesh, hands=HANDS.value)
    compiled[DRAWN] = programs.drawing(deck, mesh, hands=PICTURES.value)
    calls = {name: (program, program.count) for name, program in compiled.items()} | calls
    table, numbers = summary(measure(calls, ROUNDS.value), mesh.size)
    load.append(os.getloadavg()[0])
    print(table)
    numbers |= {
        "compile_seconds": {n: round(c.compile_seconds, 2) for n, c in compiled.items()},
        "cores": mesh.size,
        "device": machine(jax.devices()[0]),
        "row_bytes": row_bytes,
        "distinct_answers": DISTINCT.value,
        "wrongly_judged_by_string_eval": refused,
        "rounds": ROUNDS.value,
        "load_average": [round(value, 1) for value in load],
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
    }
    print(json.dumps(numbers))


def _each(judge: Callable, answers: list[tuple], rule: Any) -> list:
    return [judge(text, hand, rule) for text, hand in answers]


def machine(device: Any) -> str:
    if device.platform != "cpu":
        return device.device_kind
    return cpu_model() or platform.machine()


if __name__ == "__main__":
    cli.run(main)
