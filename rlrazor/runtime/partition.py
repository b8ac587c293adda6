"""Partition rules by path, strict: each array of a tree to the mesh axes that cut it."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from rlrazor.types import Rule


@dataclasses.dataclass(frozen=True)
class _Cut:
    name: str  # the array's path
    size: int
    counted: str  # what there are so many of
    axes: tuple[str, ...]


def specs_of(
    tree: Any,  # arrays or their shapes
    rules: Sequence[Rule],
    sizes: Mapping[str, int],  # of the mesh axes
) -> Any:
    """The tree with a PartitionSpec for every array, by the first rule whose ending its path has.

    A scalar needs no rule. So the rules of a model's parameters serve its gradients, its optimizer
    state and its training state too. ValueError for an array that no rule knows, for one of another
    rank than its rule, and for one that an axis does not divide, with sizes that all arrays allow.
    """
    compiled = [(re.compile(rf"(?:.*/)?(?:{rule.ending})"), rule) for rule in rules]
    cuts: list[_Cut] = []

    def spec(path: Any, leaf: Any) -> P:
        if leaf.ndim == 0:
            return P()
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = next((rule for pattern, rule in compiled if pattern.fullmatch(name)), None)
        if rule is None:
            raise ValueError(
                f"no partition rule matches {name!r} of shape {leaf.shape}; add a Rule whose "
                "`ending` is the end of that path"
            )
        if rule.axes and len(rule.axes) != leaf.ndim:
            raise ValueError(
                f"the rule for {rule.ending!r} has axes for {len(rule.axes)} dimensions, but "
                f"{name!r} has shape {leaf.shape}"
            )
        for size, axes in zip(leaf.shape, rule.axes, strict=False):
            if axes is not None:
                axes = (axes,) if isinstance(axes, str) else axes
                counted = "entries"
                if rule.heads is not None and "tensor" in axes:
                    size, counted = rule.heads, "heads"
                cuts.append(_Cut(name, size, counted, axes))
        return P(*rule.axes)

    specs = jax.tree.map_with_path(spec, tree)
    for cut in cuts:
        if cut.size % _product(cut.axes, sizes):
            common = math.gcd(*(other.size for other in cuts if other.axes == cut.axes))
            raise ValueError(_unfit(cut, common, sizes))
    return specs


def check_divides(shape: Sequence[int], axes: Sequence[Any], sizes: Mapping[str, int]) -> None:
    """ValueError if the axes do not divide an activation's dimensions."""
    for size, of_one in zip(shape, axes, strict=True):
        of_one = (of_one,) if isinstance(of_one, str) else of_one or ()
        if size % _product(of_one, sizes):
            name = f"an array of shape {tuple(shape)}"
            raise ValueError(_unfit(_Cut(name, size, "entries", of_one), size, sizes))


def _product(axes: Sequence[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[axis] for axis in axes)


def _unfit(cut: _Cut, common: int, sizes: Mapping[str, int]) -> str:
    fits = [n for n in range(1, math.prod(sizes.values()) + 1) if common % n == 0]
    return (
        f"{' x '.join(f'{axis}={sizes[axis]}' for axis in cut.axes)} must divide the {cut.size} "
        f"{cut.counted} of {cut.name}; {' x '.join(cut.axes)} can be {', '.join(map(str, fits))}"
    )
