"""Deals hands that a rule admits, each with exactly its chance of being dealt at all.

All 13^C ordered hands have a place in one table of cumulated chances, whatever the rule, so that
dealing needs no rejection and two rules are two tables of one shape.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.tasks.general_points.rule import FACES, RANKS, SUITS, Rule
from rlrazor.tasks.general_points.solver import solve_hands

_FIRST_FACE = RANKS.index(FACES[0]) + 1


@struct.dataclass
class Deck:
    """A rule's hands. A hand's row reads its ranks, less one, as digits of base 13."""

    ends: jax.Array  # i32[13^C] ways to deal the hands up to and including this row
    allowed: jax.Array  # bool[4] suits
    cards: int = struct.field(pytree_node=False)
    with_replacement: bool = struct.field(pytree_node=False)


@struct.dataclass
class Hand:
    row: jax.Array  # i32[] of the deck
    ranks: jax.Array  # i32[C] 1 is an ace, 11 to 13 are J, Q, K
    suits: jax.Array  # i32[C] index into rule.SUITS


def make_deck(rule: Rule) -> Deck:
    """Solves every hand of the rule. Raises ValueError if none can be dealt and solved."""
    ranks = all_hands(rule.cards)
    ways = _ways_to_deal(ranks, rule)
    if rule.needs_face_card:
        ways = np.where((ranks >= _FIRST_FACE).any(axis=1), ways, 0)
    numbers = np.sort(np.array(rule.values, np.int32)[ranks - 1], axis=1)
    hands, hand_of_row = np.unique(numbers, axis=0, return_inverse=True)
    solvable, _ = solve_hands(jnp.asarray(hands), rule.target, chunk=1)
    ways = np.where(np.asarray(solvable)[hand_of_row.reshape(-1)], ways, 0)
    if ways.sum() == 0:
        raise ValueError(
            f"no hand of {rule.cards} cards reaches target={rule.target} with values "
            f"{rule.values}, suits {', '.join(rule.suits)}, "
            f"with_replacement={rule.with_replacement}, needs_face_card={rule.needs_face_card} and "
            f"forces_face_card={rule.forces_face_card}; change one of them"
        )
    return Deck(
        ends=jnp.asarray(np.cumsum(ways), jnp.int32),
        allowed=jnp.array([suit in rule.suits for suit in SUITS]),
        cards=rule.cards,
        with_replacement=rule.with_replacement,
    )


def all_hands(cards: int) -> np.ndarray:  # i32[13^C, C] ranks
    """Every ordered hand, in the order of the rows."""
    return np.indices((len(RANKS),) * cards, np.int32).reshape(cards, -1).T + 1


def _ways_to_deal(ranks: np.ndarray, rule: Rule) -> np.ndarray:  # i64[13^C]
    """How many choices of suits give each ordered hand; one will do where all are equal.

    Where a face card is put in, also how many of the cards may be the one.
    """
    ways = np.ones(len(ranks), np.int64)
    if rule.forces_face_card:
        return (ranks >= _FIRST_FACE).sum(axis=1)
    if rule.with_replacement:
        return ways
    for card in range(1, rule.cards):
        gone = (ranks[:, :card] == ranks[:, card : card + 1]).sum(axis=1)
        ways *= np.maximum(len(rule.suits) - gone, 0)
    return ways


def deal(key: jax.Array, deck: Deck) -> Hand:
    """Draws one hand: among all deals that the rule allows, each is equally likely.

    A deal with a face card put in counts once for each card that may be it.
    """
    row_key, suit_key = jax.random.split(key)
    draw = jax.random.randint(row_key, (), 0, deck.ends[-1])
    row = jnp.searchsorted(deck.ends, draw, side="right").astype(jnp.int32)
    ranks = ranks_of(row, deck.cards)
    order = jax.random.uniform(suit_key, (deck.cards, len(SUITS)))
    if not deck.with_replacement:
        # Cards of one rank share one order of the suits and take them in turn.
        first = jnp.argmax(ranks[:, None] == ranks[None], axis=1)
        order = order[first]
    by_preference = jnp.argsort(jnp.where(deck.allowed[None], order, 2.0), axis=1)
    earlier = jnp.tril(ranks[:, None] == ranks[None], -1)
    turn = jnp.zeros_like(ranks) if deck.with_replacement else jnp.sum(earlier, axis=1)
    suits = jnp.take_along_axis(by_preference, turn[:, None], axis=1)[:, 0]
    return Hand(row, ranks, suits.astype(jnp.int32))


def ranks_of(row: jax.Array, cards: int) -> jax.Array:  # i32[C]
    """The hand of a row."""
    place = jnp.asarray(len(RANKS) ** np.arange(cards - 1, -1, -1), jnp.int32)
    return row // place % len(RANKS) + 1
