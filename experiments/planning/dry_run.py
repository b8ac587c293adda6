"""Compiles all that a run would call, on the devices that are there, and says what it needs."""

import dataclasses
import time
from typing import Any

from experiments.finetuning.settings import chosen_methods, loading
from experiments.planning.costs import Needs, bytes_on_device, compiled_needs
from experiments.planning.planning import asked_of, cache_bytes, setup_of
from experiments.planning.table import GIB
from rlrazor.api.model import base_shapes, described
from rlrazor.runtime.distributed import is_writer
from rlrazor.runtime.mesh import make_mesh
from rlrazor.studies.calls import Call, Planned, measuring_calls, planned, training_calls


def dry_run(config: Any) -> None:
    """One line a program, arm and bucket; what is measured with is compiled once.

    What was compiled is kept by JAX's cache, and so is quick when the run begins.
    """
    mesh = make_mesh(**config.mesh)
    policy = described(config.model, mesh=mesh, **loading(config)).policy
    limit, asked = memory_of(mesh.devices.flat[0]), asked_of(config)
    measured: dict[str, Needs] = {}
    over: list[tuple[float, str]] = []
    for method in chosen_methods(config):
        arm = planned(setup_of(config, method, policy), base_shapes(policy))
        held = {name: bytes_on_device(tree) for name, tree in arm.held.items()}

        def compiled(call: Call, arm: Planned = arm, held: Any = held) -> Needs:
            started = time.monotonic()
            needs, _ = compiled_needs(
                call.program.lower(*call.arguments),
                held=held,
                read=sum(held[name] for name in call.reads),
                made={"cache": cache_bytes(policy, call)} if call.samples else {},
                limit=limit,
            )
            seconds = time.monotonic() - started
            if is_writer():
                name = arm.setup.method.name
                print(described_call(name, call, needs, seconds), flush=True)
            return needs

        mine = [(call.name, compiled(call)) for call in training_calls(arm, asked)]
        measured = measured or {
            f"{call.name} for {call.tokens} tokens": compiled(call)
            for call in measuring_calls(arm, asked)
        }
        mine += [(name, _beside(needs, held)) for name, needs in measured.items()]
        over += [
            ((needs.total - needs.limit) / GIB, f"{method.name}: {name}")
            for name, needs in mine
            if not needs.fits
        ]
    if over and is_writer():
        most, name = max(over)
        print(
            f"{name} needs {most:.2f} GiB a device more than there are; lower config.rows_at_once, "
            "config.vocabulary_chunk, config.test_at_once, config.answer_tokens or prompts x "
            "samples, or take more devices; experiments/plan.py looks for a layout that fits"
        )


def _beside(needs: Needs, held: dict[str, float]) -> Needs:
    """What was compiled of the first arm, beside what another one holds."""
    made = {name: size for name, size in needs.named.items() if name == "cache"}
    return dataclasses.replace(needs, named=held | made)


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
