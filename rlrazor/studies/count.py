"""Floating-point operations of the matrix products in a function, counted before compilation.

Unlike the compiler's own count, loops count as often as they run, and what the backward pass works
out again counts again. A loop that may end early counts the most that its condition allows.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(fn: Callable[..., Any], *arguments: Any) -> float:
    """Of `fn(*arguments)` on all devices together; shapes suffice as arguments."""
    return _of(jax.make_jaxpr(fn)(*arguments).jaxpr)


def _of(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
    if name == "while":
        trips = _limit(params["cond_jaxpr"].jaxpr)
        return trips * (_of(params["body_jaxpr"].jaxpr) + _of(params["cond_jaxpr"].jaxpr))
    if name == "cond":
        return max(_of(branch.jaxpr) for branch in params["branches"])
    if name == "pallas_call":
        raise ValueError("a Pallas kernel cannot be counted; count the program without it")
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":
        axes = params.get("newly_manual_axes") or params["manual_axes"]  # JAX's versions differ
        times = math.prod(params["mesh"].shape[axis] for axis in axes)
    return times * sum(_of(inner) for inner in _inside(params))


def _limit(condition: Any) -> int:
    """The largest number that the condition of a loop compares its counter with."""
    limits = [1]
    for equation in condition.eqns:
        if equation.primitive.name == "lt":
            limits += [int(x.val) for x in equation.invars if isinstance(x, core.Literal)]
        limits += [_limit(inner) for inner in _inside(equation.params)]
    return max(limits)


def _inside(params: dict[str, Any]) -> list[Any]:
    """Jaxprs among the parameters of an equation."""
    values = [x for v in params.values() for x in (v if isinstance(v, tuple | list) else [v])]
    return [
        getattr(value, "jaxpr", value)
        for value in values
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr)
    ]
