"""Rules of GeneralPoints as data: what cards are worth, what to reach, which cards are dealt.

A rule is a value, so that training and testing differ by a value and never by a code path (SFT
Memorizes, RL Generalizes, Section 4.1; the released code deals with replacement).
"""

import dataclasses
import numbers
from collections.abc import Sequence

RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
SUITS = ("spades", "hearts", "diamonds", "clubs")
BLACK = ("spades", "clubs")
RED = ("hearts", "diamonds")
FACES = ("J", "Q", "K")
LARGEST_VALUE = 999  # of a card
LARGEST_INTEGER = 99_999  # what an answer may say is read up to here, so a target lies below


@dataclasses.dataclass(frozen=True)
class Rule:
    """What one game of GeneralPoints asks. Raises ValueError if no such game can be judged.

    `values` holds the worth of A, 2, ..., K in this order. `with_replacement` draws every card
    from a full deck of the allowed suits, as the released code does; without, the hand comes from
    one deck, as the paper says. `needs_face_card` keeps only hands with a J, Q or K, so that the
    rule always matters: of these, each is as likely as without. `forces_face_card` instead deals as
    the released code does out of distribution: all cards but one as usual, a J, Q or K put in among
    them at random, so that a hand is the likelier the more faces it has. It needs replacement.
    """

    values: tuple[int, ...]
    target: int = 24
    cards: int = 4
    suits: tuple[str, ...] = SUITS
    with_replacement: bool = True
    needs_face_card: bool = False
    forces_face_card: bool = False

    def __post_init__(self) -> None:
        _check_integer("target", self.target, highest=LARGEST_INTEGER - 1)
        whole = isinstance(self.cards, numbers.Integral) and not isinstance(self.cards, bool)
        if not whole or self.cards not in (3, 4, 5):
            raise ValueError(f"cards={self.cards!r} must be 3, 4 or 5")
        for name in ("with_replacement", "needs_face_card", "forces_face_card"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")
        if self.forces_face_card and not self.with_replacement:
            raise ValueError(
                "forces_face_card=True puts a card in among others drawn with replacement; give "
                "with_replacement=True, or needs_face_card=True instead"
            )
        for name in ("values", "suits"):
            if not isinstance(getattr(self, name), Sequence):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a tuple")
        if len(self.values) != len(RANKS):
            raise ValueError(
                f"values has {len(self.values)} entries; give {len(RANKS)}, one each for "
                f"{', '.join(RANKS)}"
            )
        for rank, value in zip(RANKS, self.values, strict=True):
            _check_integer(f"the value of {rank}", value, highest=LARGEST_VALUE)
        unknown = set(self.suits) - set(SUITS)
        if unknown or not self.suits or len(set(self.suits)) < len(self.suits):
            raise ValueError(
                f"suits={self.suits!r} must name one or more of {', '.join(SUITS)}, each once"
            )
        # Numerator and denominator of any formula sum to at most the product of (value + 1), so
        # this bound keeps every exact comparison with the target inside a 32-bit integer.
        if (max(self.values) + 1) ** self.cards * (self.target + 1) >= 2**31:
            raise ValueError(
                f"values up to {max(self.values)} on {self.cards} cards with target={self.target} "
                "overflow exact 32-bit arithmetic: (largest value + 1)^cards * (target + 1) must "
                "stay below 2^31; lower one of them"
            )


def _check_integer(name: str, number: object, *, highest: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= highest:
        raise ValueError(f"{name} is {number!r}; it must be an integer from 0 to {highest}")


def face_values(jack: int, queen: int, king: int) -> tuple[int, ...]:
    """Values of A, 2, ..., K: an ace counts 1, other numbered cards what they show."""
    return (*range(1, 11), jack, queen, king)


FACES_AS_TEN = Rule(values=face_values(10, 10, 10))
FACES_IN_ORDER = Rule(values=face_values(11, 12, 13))
