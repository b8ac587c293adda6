"""What a program needs of a device, and the least time it can take there."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.planning.hlo import Collective, collectives_of
from rlrazor.runtime.hardware import Accelerator

# "Used 20.08G of 15.75G hbm.", or "required for ... (20.08G) exceeds available HBM (15.75G)"
_EXCEEDED = re.compile(r"([\d.]+)([KMGT])\)? (?:of|exceeds available HBM) \(?([\d.]+)([KMGT])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes of one device."""

    named: dict[str, float]  # such as parameters
    working: float  # all else while it runs: activations, what is gathered
    limit: float  # what the compiler lets a program have

    @property
    def total(self) -> float:
        return sum(self.named.values()) + self.working

    @property
    def fits(self) -> bool:
        return self.total <= self.limit


@dataclasses.dataclass(frozen=True)
class Time:
    """The least seconds of one run, by what they are spent on."""

    compute: float
    memory: float
    links: float

    @property
    def least(self) -> float:
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """What binds."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


@dataclasses.dataclass(frozen=True)
class Cost:
    needs: Needs
    made: dict[str, float]  # of what is named, that the program makes itself
    flops: float  # of one device
    collectives: tuple[Collective, ...] | None  # None where JAX cannot print the program
    time: Time | None  # None for a program that does not fit: it was not compiled to the end

    def beside(self, held: dict[str, float]) -> "Cost":
        """The same program where other things lie on the device."""
        return dataclasses.replace(
            self, needs=dataclasses.replace(self.needs, named=held | self.made)
        )

    def sent(self) -> dict[str, float] | None:
        """Bytes that leave a device, by the kind of exchange; None if that cannot be read."""
        if self.collectives is None:
            return None
        total: dict[str, float] = collections.defaultdict(float)
        for collective in self.collectives:
            total[collective.kind] += collective.bytes * collective.times
        return dict(total)


def bytes_on_device(tree: Any) -> float:
    """Of shapes that know where they lie, as much as one device holds."""
    return float(
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * _itemsize(leaf)
            for leaf in jax.tree.leaves(tree)
        )
    )


def _itemsize(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8
    return leaf.dtype.itemsize


def compiled_needs(
    lowered: Any,  # jax.stages.Lowered
    *,
    held: dict[str, float],  # bytes on a device throughout the run, by name
    read: float,  # bytes of what is held that are arguments of the program
    made: dict[str, float],  # that it makes there and are worth a name, such as a cache
    limit: float,  # bytes that a program may have, where the compiler does not say it
) -> tuple[Needs, Any]:  # jax.stages.Compiled; None for a program that is too large
    """Compiles, and says what it needs; a program that is too large is said to be so."""
    try:
        compiled = lowered.compile()
    except Exception as error:  # XLA raises a runtime error of its own
        found = _EXCEEDED.search(str(error))
        if found is None:
            raise
        used, limit = (float(found[i]) * _UNITS[found[i + 1]] for i in (1, 3))
        return Needs(held | made, used - read - sum(made.values()), limit), None
    memory = compiled.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    others = memory.argument_size_in_bytes - read  # rows and keys
    working = memory.temp_size_in_bytes + new + others + memory.generated_code_size_in_bytes
    return Needs(held | made, float(working - sum(made.values())), limit), compiled


def cost_of(
    lowered: Any,  # jax.stages.Lowered
    *,
    flops: float,  # of one device
    traffic: float,  # least bytes between a device and its memory
    accelerator: Accelerator,
    **known: Any,  # of `compiled_needs`
) -> Cost:
    """Compiles, and says what it needs and takes."""
    needs, compiled = compiled_needs(lowered, limit=accelerator.memory, **known)
    if compiled is None:
        return Cost(needs, known["made"], flops, (), None)
    try:
        collectives = tuple(collectives_of(compiled.as_text()))
    except jax.errors.JaxRuntimeError:  # of some asynchronous exchanges of a v6e, by JAX 0.10
        collectives = None
    time = least_time(flops, traffic, collectives or (), accelerator)
    return Cost(needs, known["made"], flops, collectives, time)


def least_time(
    flops: float, traffic: float, collectives: Iterable[Collective], accelerator: Accelerator
) -> Time:
    """By roofline: every unit at its peak, nothing waiting for anything."""
    sent = sum(collective.bytes * collective.times for collective in collectives)
    return Time(
        compute=flops / accelerator.flops,
        memory=traffic / accelerator.memory_bandwidth,
        links=sent / accelerator.link_bandwidth,
    )
