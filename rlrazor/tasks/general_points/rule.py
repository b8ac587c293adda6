"""Rules of GeneralPoints as data: what cards are worth, what to reach, which cards are dealt.

A rule is a value, so that training and testing differ by a value and never by a code path (SFT
Memorizes, RL Generalizes, Section 4.1; the released code deals with replacement).
"""

import dataclasses

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
    rule always matters.
    """

    values: tuple[int, ...]
    target: int = 24
    cards: int = 4
    suits: tuple[str, ...] = SUITS
    with_replacement: bool = True
    needs_face_card: bool = False

    def __post_init__(self) -> None:
        _check_integer("target", self.target, highest=LARGEST_INTEGER - 1)
        if self.cards not in (3, 4, 5) or isinstance(self.cards, bool):
            raise ValueError(f"cards={self.cards!r} must be 3, 4 or 5")
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


@dataclasses.dataclass(frozen=True)
class Shift:
    """A rule to train under and one or more, by name, that training never shows."""

    train: Rule
    test: dict[str, Rule]


def paper_rule_shift() -> Shift:
    """The paper's direction: train with J = Q = K = 10, test with 11, 12, 13."""
    return Shift(FACES_AS_TEN, {"faces_in_order": _with_face_card(FACES_IN_ORDER)})


def slides_rule_shift() -> Shift:
    """The talk's direction, the reverse: train with 11, 12, 13, test with J = Q = K = 10."""
    return Shift(FACES_IN_ORDER, {"faces_as_ten": _with_face_card(FACES_AS_TEN)})


def visual_shift(rule: Rule) -> Shift:
    """Train on spades and clubs, test on hearts and diamonds, under one arithmetic rule.

    With FACES_AS_TEN this is the visual shift of the paper's direction, with FACES_IN_ORDER that
    of the slides'.
    """
    black = dataclasses.replace(rule, suits=BLACK)
    return Shift(black, {"red_suits": dataclasses.replace(rule, suits=RED)})


def diverse_rule_shift() -> Shift:
    """The families of Debunk the Myth of SFT Generalization (arXiv 2510.00237) against one rule.

    Face cards all 5, all 7 or all 12, in order, or large, and hands of five. What that paper's
    "large" values are is not in the summary at hand: here 14, 15 and 16.
    """
    families = {
        "all_5": Rule(values=face_values(5, 5, 5), needs_face_card=True),
        "all_7": Rule(values=face_values(7, 7, 7), needs_face_card=True),
        "all_12": Rule(values=face_values(12, 12, 12), needs_face_card=True),
        "faces_in_order": _with_face_card(FACES_IN_ORDER),
        "large": Rule(values=face_values(14, 15, 16), needs_face_card=True),
        "five_cards": dataclasses.replace(FACES_AS_TEN, cards=5),
    }
    return Shift(FACES_AS_TEN, families)


def _with_face_card(rule: Rule) -> Rule:
    return dataclasses.replace(rule, needs_face_card=True)
