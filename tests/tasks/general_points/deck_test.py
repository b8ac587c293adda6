"""Dealt hands against the plain enumeration of every deal."""

import collections
import dataclasses
import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlrazor.tasks.general_points.deck import all_hands, deal, make_deck, ranks_of
from rlrazor.tasks.general_points.prompt_table import hand_row
from rlrazor.tasks.general_points.rule import (
    BLACK,
    FACES_AS_TEN,
    FACES_IN_ORDER,
    RED,
    SUITS,
    Rule,
    face_values,
)
from tests.oracles import points_solver
from tests.oracles.tiny_points import AS_TEN, jit

# Few hands reach 24, with pairs, and with and without a face card: 97 never helps.
SMALL = Rule(values=(2, 3, 4, *[97] * 9, 4), cards=3, suits=("hearts", "clubs"))
DRAWS = 10_000

deck_of = functools.cache(make_deck)
deal_many = jit(jax.vmap(deal, in_axes=(0, None)))


@functools.cache
def is_solvable(numbers, target):
    return bool(points_solver.formulas(numbers, target))


def dealt(rule, seed=0):
    """Hands as tuples of cards (rank, suit)."""
    hands = deal_many(jax.random.split(jax.random.key(seed), DRAWS), deck_of(rule))
    chex.assert_type([hands.row, hands.ranks, hands.suits], jnp.int32)
    np.testing.assert_array_equal(all_hands(rule.cards)[hands.row], hands.ranks)
    pairs = np.stack([hands.ranks, hands.suits], axis=-1).tolist()
    return [tuple(map(tuple, hand)) for hand in pairs]


def is_admissible(hand, rule):
    numbers = tuple(sorted(rule.values[rank - 1] for rank, _ in hand))
    return (
        all(SUITS[suit] in rule.suits for _, suit in hand)
        and (rule.with_replacement or len(set(hand)) == len(hand))
        and (not rule.needs_face_card or any(rank > 10 for rank, _ in hand))
        and is_solvable(numbers, rule.target)
    )


@pytest.mark.parametrize(
    "rule",
    [AS_TEN, dataclasses.replace(AS_TEN, suits=RED, with_replacement=False, needs_face_card=True)],
)
def test_every_hand_that_is_dealt_is_admissible(rule):
    assert all(is_admissible(hand, rule) for hand in dealt(rule)[:2000])


@pytest.mark.parametrize("with_replacement", [True, False])
@pytest.mark.parametrize("needs_face_card", [True, False])
def test_every_admissible_deal_is_equally_likely(with_replacement, needs_face_card):
    """Cards, suits and order: a face card is waited for, never put into a hand."""
    rule = dataclasses.replace(
        SMALL, with_replacement=with_replacement, needs_face_card=needs_face_card
    )
    cards = itertools.product(range(1, 14), [SUITS.index(suit) for suit in rule.suits])
    deals = itertools.product(list(cards), repeat=3)
    support = [hand for hand in deals if is_admissible(hand, rule)]
    seen = collections.Counter(dealt(rule))
    assert set(seen) <= set(support)
    assert 100 < len(support) < 500
    assert stats.chisquare([seen[hand] for hand in support]).pvalue > 1e-3


@pytest.mark.parametrize("rule", [SMALL, FACES_IN_ORDER], ids=["small", "study"])
def test_a_face_card_is_put_in_as_the_released_code_does(rule):
    """Against its own way: all cards but one at random, then a J, Q or K, shuffled; if solvable."""
    rule = dataclasses.replace(rule, forces_face_card=True)
    hands = collections.Counter()
    for others in itertools.combinations_with_replacement(range(1, 14), rule.cards - 1):
        counts = collections.Counter(others).values()
        orders = math.factorial(rule.cards - 1) // math.prod(map(math.factorial, counts))
        for face in (11, 12, 13):
            hands[tuple(sorted((*others, face)))] += orders
    solvable = {
        hand: weight
        for hand, weight in hands.items()
        if is_solvable(tuple(sorted(rule.values[rank - 1] for rank in hand)), rule.target)
    }
    drawn = dealt(rule) + dealt(rule, seed=1)
    seen = collections.Counter(tuple(sorted(rank for rank, _ in hand)) for hand in drawn)
    assert set(seen) <= set(solvable)
    scale = len(drawn) / sum(solvable.values())
    # Rare hands together, so that every class is expected ten times or more.
    classes = collections.defaultdict(lambda: np.zeros(2))
    for hand, weight in solvable.items():
        key = hand if weight * scale >= 10 else ("rare", sum(rank > 10 for rank in hand))
        classes[key] += seen[hand], weight * scale
    observed, expected = np.array([*classes.values()]).T
    assert len(classes) > 5
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    # Every order and suit is as likely as another.
    faces = np.sum([[rank > 10 for rank, _ in hand] for hand in drawn], axis=0)
    assert stats.chisquare(faces).pvalue > 1e-3
    suits = collections.Counter(suit for hand in drawn for rank, suit in hand if rank > 10)
    assert stats.chisquare([suits[SUITS.index(suit)] for suit in rule.suits]).pvalue > 1e-3


def test_hands_are_counted_as_they_can_be_dealt():
    """All four cards of the paper's game: the known number of hands, and of ways to deal them."""
    for rule, ways_to_deal in (
        (FACES_IN_ORDER, lambda counts: 4**4),
        (
            dataclasses.replace(FACES_IN_ORDER, with_replacement=False),
            lambda counts: np.prod([(4, 12, 24, 24)[n - 1] for n in counts]),
        ),
    ):
        ends = np.asarray(deck_of(rule).ends, np.int64)
        ways = np.diff(ends, prepend=0)
        hands = collections.Counter()
        for ranks, count in zip(all_hands(4)[ways > 0].tolist(), ways[ways > 0], strict=True):
            hands[tuple(sorted(ranks))] += count
        assert len(hands) == 1362
        unit = 4**4 if rule.with_replacement else 4  # a factor that all hands share is left out
        for ranks, count in hands.items():
            multiplicities = list(collections.Counter(ranks).values())
            orders = len(set(itertools.permutations(ranks)))
            assert count * unit == orders * ways_to_deal(multiplicities)


CHANGES = {
    "values": face_values(11, 12, 13),
    "target": 12,
    "cards": FACES_AS_TEN.cards,
    "suits": BLACK,
    "with_replacement": False,
    "needs_face_card": True,
    "forces_face_card": True,
}


def test_every_field_of_a_rule_is_alive():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Rule)}
    usual = dealt(AS_TEN)
    assert dealt(AS_TEN) == usual
    assert dealt(AS_TEN, seed=1) != usual
    for name, value in CHANGES.items():
        rule = dataclasses.replace(AS_TEN, **{name: value})
        if name == "cards":
            assert (deck_of(rule).cards, len(deck_of(rule).ends)) == (4, 13**4)
        else:
            assert dealt(rule) != usual, name


@pytest.mark.parametrize(
    "rule",
    [
        Rule(values=(0,) * 13),
        Rule(values=(8, *[97] * 12), cards=3, suits=("spades",), with_replacement=False),
        Rule(values=(8, *[97] * 12), cards=3, needs_face_card=True),
    ],
)
def test_a_rule_without_a_hand_is_refused(rule):
    with pytest.raises(ValueError, match=r"no hand of . cards reaches target=24 .* change one"):
        make_deck(rule)


def test_three_of_a_rank_need_three_suits():
    rule = Rule(values=(8, *[97] * 12), cards=3, suits=SUITS[:3], with_replacement=False)
    hands = dealt(rule)
    assert {rank for hand in hands for rank, _ in hand} == {1}
    assert {tuple(suit for _, suit in hand) for hand in hands} == set(
        itertools.permutations(range(3))
    )


def test_rows_are_those_of_the_prompts():
    for cards in (3, 4):
        rows = np.arange(0, 13**cards, 11, dtype=np.int32)
        np.testing.assert_array_equal(jax.vmap(hand_row)(jnp.asarray(all_hands(cards)[rows])), rows)
    rows = jnp.arange(0, 13**5, 97, dtype=jnp.int32)
    ranks = jax.vmap(lambda row: ranks_of(row, 5))(rows)
    np.testing.assert_array_equal(jax.vmap(hand_row)(ranks), rows)


def test_one_trace_deals_for_all_rules_of_a_size():
    chex.clear_trace_counter()
    one = jit(chex.assert_max_traces(deal, n=1))
    keys = jax.random.split(jax.random.key(5), DRAWS)
    for rule in (AS_TEN, dataclasses.replace(AS_TEN, target=CHANGES["target"])):
        deck = deck_of(rule)
        batch = deal_many(keys, deck)
        for place, key in enumerate(keys[:3]):
            solo = one(key, deck)
            chex.assert_trees_all_equal(solo, jax.tree.map(lambda x, i=place: x[i], batch))
