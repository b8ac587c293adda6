"""How a shift is called: what training showed, what only the test shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    trained: str  # what training showed
    other: str  # the same of the test
    untrained: str  # where a sentence says that something happens there
    thing: str  # what is another one


_KNOWN = {
    "rule": Words("rule of training", "other rule", "under the rule that training never showed",
                  "rule"),
    "visual": Words("look of training", "other look", "under the look that training never showed",
                    "look"),
}  # fmt: skip


def words(place: str) -> Words:
    """Of the place of a shift, "shift/<name>"; a name that is not known is quoted."""
    name = shift_name(place)
    if name in _KNOWN:
        return _KNOWN[name]
    return Words("task of training", f"shift “{name}”", f"under the shift “{name}”", "form")


def shift_name(place: str) -> str:
    return place.removeprefix("shift/")


def titles(places: Sequence[str]) -> Mapping[str, str]:
    """Task -> its title, the one of training first: of one shift or of several side by side."""
    each = [words(place) for place in places]
    trained = {one.trained for one in each}
    new = trained.pop() if len(trained) == 1 else "task of training"
    return {"new": new} | {place: one.other for place, one in zip(places, each, strict=True)}
