"""What a GPU or TPU reaches with this code, most valuable first, in at most `--minutes`.

    python experiments/benchmarks/accelerator.py [--minutes=8] [--parts=sft-0.5B,...] [--tiny]

Fine-tuning as `configs/finetune.py` has it, on every device of the machine, with random weights of
Qwen2.5's shapes: SFT as a share of the peak FLOPs (model FLOPs utilisation), decoding as a share of
the memory's bandwidth, and a GRPO iteration in its parts; then losses and gradients beside a CPU's,
GeneralPoints verdicts, and the parity study's steps. Each part prints one line as soon as it is
known. A part that fails says why, and one that would not fit into the time is left out; the next
goes on. The last line is one JSON object of all. --tiny is a minute on a CPU: does it run at all?
"""

import functools
import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags

from experiments import cli
from experiments.benchmarks.machine import cpu_model, rounded

# Expected seconds on an accelerator, compiling included. In this order.
PARTS = {
    "sft-0.5B": 60,
    "decode-0.5B": 40,
    "grpo-0.5B": 90,
    "losses": 40,
    "sft-1.5B": 70,
    "decode-1.5B": 40,
    "sft-3B": 100,
    "decode-3B": 60,
    "verdicts": 40,
    "sweep": 40,
    "sft-0.5B-8": 60,  # the same with eight rows at once
}
MINUTES = flags.DEFINE_float("minutes", 8, "Parts that would end later are skipped.", 0)
NAMES = flags.DEFINE_list("parts", [], f"Of {', '.join(PARTS)}; all if empty.")
TINY = flags.DEFINE_bool("tiny", False, "Tiny models and sizes, of every part.")

Figures = dict[str, Any]
LONGEST = 400  # characters of an error


def chosen(names: list[str]) -> list[str]:
    """In the order of `PARTS`; ValueError for an unknown one."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise ValueError(f"--parts={','.join(unknown)} must be of {', '.join(PARTS)}")
    return [name for name in PARTS if name in names] if names else [*PARTS]


def figures_of(name: str, *, tiny: bool) -> Figures:
    """Runs a part; what it needs is imported now, so that nothing missing stops the others."""
    kind, *how = name.split("-")
    if kind in ("sft", "decode", "grpo"):
        from experiments.benchmarks import accelerator_language as language

        model, rows_at_once = how[0], int(how[1]) if len(how) > 1 else None
        if kind == "decode":
            return language.decode(model, tiny=tiny)
        if kind == "grpo":
            return language.grpo(model, tiny=tiny)
        return language.sft(model, tiny=tiny, rows_at_once=rows_at_once)
    if kind == "losses":
        from experiments.benchmarks import accelerator_losses

        return accelerator_losses.losses(tiny=tiny)
    from experiments.benchmarks import accelerator_tasks as tasks

    return tasks.verdicts(tiny=tiny) if kind == "verdicts" else tasks.sweep(tiny=tiny)


def in_budget(
    parts: Mapping[str, Callable[[], Figures]],
    expected: Mapping[str, float],  # seconds
    budget: float,  # seconds
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[str, Figures]]:
    """What each part found, or `error`, or `skipped`.

    Expectations are scaled by what the parts so far took of theirs.
    """
    start, hoped = clock(), 0.0
    for name, part in parts.items():
        spent = clock() - start
        needs = expected[name] * (spent / hoped if hoped else 1.0)
        if spent + needs > budget:
            yield name, {"skipped": f"{needs:.0f} s would not fit: {spent:.0f} of {budget:.0f} s"}
            continue
        try:
            found = part()
        except Exception as error:  # whatever it is, the next part goes on
            text = " ".join(str(error).split())
            found = {"error": f"{type(error).__name__}: {text[:LONGEST]}"}
        hoped += expected[name]
        yield name, found | {"wall_seconds": clock() - start - spent}
        gc.collect()  # the arrays of a part that failed


def main(argv: Any) -> None:
    wanted = chosen(NAMES.value)
    # By default JAX leaves a quarter of a GPU's memory unused.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    import jax

    from rlrazor.runtime.hardware import accelerator_of

    device = jax.devices()[0]
    peak = accelerator_of(device.device_kind)
    about = {
        "device": cpu_model() if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "peak_bf16_flops": peak and peak.flops,
        "peak_bytes_per_second": peak and peak.memory_bandwidth,
        "tiny": TINY.value,
        "jax": jax.__version__,
    }
    print("on", json.dumps(about), flush=True)
    if peak is None:
        print("the device's peak is not known, so shares of it are null", flush=True)
    parts = {name: functools.partial(figures_of, name, tiny=TINY.value) for name in wanted}
    found: Figures = {}
    for name, figures in in_budget(parts, PARTS, 60 * MINUTES.value):
        found[name] = rounded(figures)
        print(name, json.dumps(found[name]), flush=True)
    print(json.dumps(about | found), flush=True)


if __name__ == "__main__":
    cli.run(main)
