"""Compiles all that a run would call, on the devices that are there, and says what it needs."""

import time
from typing import Any

from experiments.finetuning.settings import chosen_methods, loading
from experiments.planning.costs import Needs, bytes_on_device, compiled_needs
from experiments.planning.planning import asked_of, cache_bytes, setup_of
from experiments.planning.table import GIB
from rlrazor.api.model import base_shapes, described
from rlrazor.runtime.distributed import is_writer
from rlrazor.runtime.mesh import make_mesh
from rlrazor.studies.calls import Call, measuring_calls, planned, training_calls


def dry_run(config: Any) -> None:
    """One line a program, arm and bucket; what is measured with is compiled once.

    What was compiled is kept by JAX's cache, and so is quick when the run begins.
    """
    mesh = make_mesh(**config.mesh)
    policy = described(config.model, mesh=mesh, **loading(config)).policy
    limit, asked = memory_of(mesh.devices.flat[0]), asked_of(config)
    over: list[tuple[float, str]] = []
    for number, method in enumerate(chosen_methods(config)):
        arm = planned(setup_of(config, method, policy), base_shapes(policy))
        held = {name: bytes_on_device(tree) for name, tree in arm.held.items()}
        measuring = measuring_calls(arm, asked) if number == 0 else ()
        for call in (*training_calls(arm, asked), *measuring):
            started = time.monotonic()
            needs, _ = compiled_needs(
                call.program.lower(*call.arguments),
                held=held,
                read=sum(held[name] for name in call.reads),
                made={"cache": cache_bytes(policy, call)} if call.samples else {},
                limit=limit,
            )
            line = described_call(method.name, call, needs, time.monotonic() - started)
            if is_writer():
                print(line, flush=True)
            if not needs.fits:
                over.append(((needs.total - needs.limit) / GIB, f"{method.name}: {call.name}"))
    if over and is_writer():
        most, name = max(over)
        print(
            f"{name} needs {most:.2f} GiB a device more than there are; lower config.rows_at_once, "
            "config.vocabulary_chunk, config.test_at_once, config.answer_tokens or prompts x "
            "samples, or take more devices; experiments/plan.py looks for a layout that fits"
        )


def memory_of(device: Any) -> float:
    """Bytes that programs may have; infinite where the device does not say, such as a CPU."""
    known = device.memory_stats() or {}
    return float(known.get("bytes_limit", "inf"))


def described_call(arm: str, call: Call, needs: Needs, seconds: float) -> str:
    line = (
        f"{arm}: {call.name} for {call.rows} rows of {call.tokens} tokens: compiled in "
        f"{seconds:.1f} s, {needs.total / GIB:.2f} GiB a device"
    )
    if needs.limit == float("inf"):
        return line
    room = (needs.limit - needs.total) / GIB
    verdict = f"{room:.2f} to spare" if needs.fits else f"DOES NOT FIT, {-room:.2f} over"
    return f"{line} of {needs.limit / GIB:.2f}; {verdict}"
