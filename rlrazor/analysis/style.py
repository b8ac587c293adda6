"""How each arm looks and is called, the same in every figure and table of one study.

Families are told apart twice, by fill and by hue: arms that learn from the reward are filled and
cool, arms that imitate outside labels are hollow and warm, arms that imitate labels close to the
policy (oracles, own samples, a trained RL policy) are hollow and purple to green. Within a family
methods get markers and colours in the order in which results first show them, and the variants of
a method look like the method. The marker shape separates methods, so colour is never needed alone.
Every colour keeps a contrast of 3 or more on white and on a near-black page.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlrazor.analysis.results import Results
from rlrazor.lines import MAIN, Family

RL, OUTSIDE, NEAR, OTHER = (
    "Learns from reward",
    "Imitates outside labels",
    "Imitates labels near the policy",
    "Other methods",
)
FAMILIES = (RL, OUTSIDE, NEAR, OTHER)
NAMES: Mapping[Family, str] = {"reward": RL, "outside": OUTSIDE, "near": NEAR}


@dataclass(frozen=True)
class ArmStyle:
    name: str  # for readers
    family: str  # one of FAMILIES
    colour: str  # "#rrggbb"
    marker: str  # of matplotlib

    @property
    def filled(self) -> bool:
        return self.family == RL


# Neighbours differ in both; the numbers of colours and markers have no common factor.
_COLOURS: Mapping[Family, tuple[str, ...]] = {
    "reward": (
        *("#0a74b0", "#0c8f78", "#7a72d8", "#1493c4", "#5b6bd0"),
        *("#2f9a83", "#3f86d6", "#1b8a9c", "#2b6fc7"),
    ),
    "outside": (
        *("#d1560b", "#c77d0a", "#c23b4e", "#b06a12", "#cf4a7c"),
        *("#a9682f", "#dd5f6a", "#96800f"),
    ),
    "near": ("#9a55c0", "#35904f", "#b54a9c", "#5f8a35", "#7b6cc4", "#a6559e", "#8f63b8"),
}
_MARKERS: Mapping[Family, tuple[str, ...]] = {
    "reward": ("o", "D", "s", "^", "v", ">", "P", "<", "p", "X", "h", "d", "*"),
    "outside": ("D", "s", "o", "X", "P", "^", "v", "<", ">", "p", "h", "d", "*"),
    "near": ("*", "P", "d", "D", "s", "p", "h", "o", "^", "v", "X", "<", ">"),
}


class Styles(dict[str, ArmStyle]):
    """Arm -> its style; a name that is no arm of the results (a group of them) looks neutral."""

    def of(self, names: Sequence[str]) -> "Styles":
        """Those of these names, in this order."""
        return Styles({name: self[name] for name in names})

    def __missing__(self, name: str) -> ArmStyle:
        return ArmStyle(_short(name), OTHER, "#7a818a", "o")


def arm_styles(results: Results) -> Styles:
    """One style an arm, in the order of results.arms."""
    order: dict[Family, list[str]] = {family: [] for family in NAMES}
    styles, names = Styles(), arm_names(results)
    facts = dict(zip(results["arm"].tolist(), results["method"].tolist(), strict=True))
    for arm, family in results.families.items():
        methods = order[family]
        if facts[arm] not in methods:
            methods.append(facts[arm])
        at = methods.index(facts[arm])
        colour = _COLOURS[family][at % len(_COLOURS[family])]
        marker = _MARKERS[family][at % len(_MARKERS[family])]
        styles[arm] = ArmStyle(names[arm], NAMES[family], colour, marker)
    return styles


def arm_names(results: Results) -> dict[str, str]:
    """Arm -> its label; where several share one, with the variant or else the arm beside it."""
    columns = (results[name].tolist() for name in ("arm", "label", "variant"))
    facts = {arm: (label or arm, variant) for arm, label, variant in zip(*columns, strict=True)}
    shared = Counter(label for label, _ in facts.values())
    told = {
        arm: f"{label}, {variant}" if shared[label] > 1 and variant != MAIN else label
        for arm, (label, variant) in facts.items()
    }
    still = Counter(map(_short, told.values()))
    return {
        arm: _short(name) if still[_short(name)] == 1 else f"{_short(name)} ({_short(arm)})"
        for arm, name in told.items()
    }


def _short(name: str, length: int = 40) -> str:
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 1] + "…"
