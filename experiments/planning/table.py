"""The figures of a plan, for people and for programs."""

from collections.abc import Mapping
from typing import Any

from experiments.planning.costs import Cost

GIB = 2**30


STEP = ("sample", "learn")  # programs of a step; the others measure


def figures(
    config: Any, arm: str, costs: Mapping[str, Cost], topology: str
) -> list[dict[str, Any]]:
    """One JSON object a program."""
    return [
        {
            "model": config.model,
            "arm": arm,
            "topology": topology,
            "program": name,
            "mesh": dict(config.mesh),
            "rows_at_once": config.rows_at_once,
            "gib": {what: size / GIB for what, size in cost.needs.named.items()}
            | {"working": cost.needs.working / GIB, "limit": cost.needs.limit / GIB},
            "fits": cost.needs.fits,
            "tflops": cost.flops / 1e12,
            "sent_gib": _in_gib(cost.sent()),
            "least_seconds": cost.time and cost.time.least,
            "bound": cost.time and cost.time.bound,
        }
        for name, cost in costs.items()
    ]


def _in_gib(sent: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if sent is None else {kind: size / GIB for kind, size in sent.items()}


def describe(config: Any, arm: str, costs: Mapping[str, Cost], topology: str) -> str:
    mesh = " ".join(f"{axis}={size}" for axis, size in config.mesh.items())
    lines = [
        f"\n{config.model}, {arm}, on {topology}: {mesh}, "
        f"rows_at_once={config.rows_at_once}, {config.param_dtype} parameters",
        "per device",
    ]
    for name, cost in costs.items():
        needs = cost.needs
        sizes = ", ".join(f"{what} {size / GIB:.2f}" for what, size in needs.named.items())
        room = (needs.limit - needs.total) / GIB
        verdict = f"fits, {room:.2f} to spare" if needs.fits else f"DOES NOT FIT, {-room:.2f} over"
        lines += [
            f"  {name}",
            f"    GiB         {sizes}, working {needs.working / GIB:.2f}: {needs.total / GIB:.2f} "
            f"of {needs.limit / GIB:.2f}; {verdict}",
            f"    TFLOP       {cost.flops / 1e12:.1f}",
        ]
        if cost.time is not None:
            sent, time = _in_gib(cost.sent()), cost.time
            told = "not known, for JAX cannot print this program"
            if sent is not None:
                told = ", ".join(f"{kind} {size:.2f}" for kind, size in sent.items()) or "none"
            lines += [
                f"    GiB sent    {told}",
                f"    least time  {time.least:.2f} s, bound by {time.bound} (compute "
                f"{time.compute:.2f}, memory {time.memory:.2f}, links {time.links:.2f})",
            ]
    times = [costs[name].time for name in STEP if name in costs]
    if all(times):
        least = sum(time.least for time in times if time)
        lines.append(f"  a step takes at least {least:.2f} s")
    return "\n".join(lines)
