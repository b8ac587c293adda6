import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.tasks.general_points import pictures
from rlrazor.tasks.general_points.atlas import LARGEST_CARD, card_width, make_atlas
from rlrazor.tasks.general_points.pictures import (
    Placement,
    contact_sheet,
    draw_hand,
    is_red,
    jitter,
    lay_out,
)
from rlrazor.tasks.general_points.rule import RED, SUITS

H, W, CARD = 40, 90, 28
ATLAS = make_atlas(CARD)
RANKS, HAND_SUITS = jnp.array([1, 8, 13, 10]), jnp.array([0, 1, 2, 3])
draw = jax.jit(draw_hand, static_argnames=("height", "width"))
draw_small = functools.partial(draw, height=H, width=W)


def ink_of(atlas):
    """u8[13, 4, h, w] from the corners of the atlas."""
    return np.asarray(atlas.corners)[..., 1:, 1:] & 255


def placed(*cards):
    """A placement from (x, y, rotation, scale) of each card."""
    return Placement(*jnp.array(cards, jnp.float32).T)


def mixed(key, C=4, amount=1.0):
    return jitter(
        key, lay_out(C, H, W, 20), shift=0.1 * amount, rotation=1.5 * amount, scale=0.3 * amount
    )


def twin_picture(atlas, ranks, suits, placement, red, height, width):
    """The same picture by loops over pixels and cards in float64, blending one after another."""
    ink = ink_of(atlas).astype(float) / 255
    h, w = ink.shape[2:]
    picture = np.empty((height, width, 3))
    picture[:] = pictures.TABLE
    where = [np.asarray(leaf, float).tolist() for leaf in jax.tree.leaves(placement)]
    for rank, suit, colour, x, y, turn, scale in zip(ranks, suits, red, *where, strict=True):
        zoom = scale * height / h
        radius = pictures.CORNER * h * zoom
        core = np.array([w * zoom / 2 - radius, h * zoom / 2 - radius])
        line = max(1, pictures.LINE * h * zoom)
        ink_colour = np.array(pictures.RED_INK if colour else pictures.BLACK_INK)
        for i in range(height):
            for j in range(width):
                offset = complex(j + 0.5 - x * width, i + 0.5 - y * height)
                offset *= complex(math.cos(turn), -math.sin(turn))
                point = np.array([offset.real, offset.imag])
                to_core = np.linalg.norm(point - np.clip(point, -core, core))
                depth = np.min(core - np.abs(point))  # inside the core: to its nearest side
                distance = (to_core if depth < 0 else -depth) - radius
                inked = 0.0
                u, v = offset.real / zoom + (w - 1) / 2, offset.imag / zoom + (h - 1) / 2
                for a in (math.floor(v), math.floor(v) + 1):
                    for b in (math.floor(u), math.floor(u) + 1):
                        if 0 <= a < h and 0 <= b < w:
                            share = (1 - abs(v - a)) * (1 - abs(u - b))
                            inked += share * ink[rank - 1, suit, a, b]
                face = np.clip(0.5 - distance - line, 0, 1)
                inside = (1 - inked) * np.array(pictures.PAPER) + inked * ink_colour
                card = (1 - face) * np.array(pictures.OUTLINE) + face * inside
                cover = np.clip(0.5 - distance, 0, 1)
                picture[i, j] = (1 - cover) * picture[i, j] + cover * card
    return picture


@pytest.mark.parametrize(("seed", "C"), [(0, 3), (1, 4), (2, 5)])
def test_agrees_with_a_slow_twin_within_one_grey_level(seed, C):
    """Overlapping, turned, cut by the edge, and another size than the atlas."""
    rng = np.random.default_rng(seed)
    ranks, suits = rng.integers(1, 14, C), rng.integers(0, 4, C)
    red = rng.integers(0, 2, C).astype(bool)
    placement = mixed(jax.random.key(seed), C, amount=2.0)
    ours = draw_small(ATLAS, jnp.array(ranks), jnp.array(suits), placement, jnp.array(red))
    twin = twin_picture(ATLAS, ranks, suits, placement, red, H, W)
    chex.assert_type(ours, jnp.uint8)
    assert np.abs(np.asarray(ours, float) - twin).max() <= 1


def test_a_tidy_card_shows_the_atlas_itself():
    """On whole pixels and at its own size nothing is blurred."""
    height, width = CARD + 6, 4 * card_width(CARD) + 15
    row = lay_out(4, height, width, CARD)
    picture = np.asarray(draw(ATLAS, RANKS, 0 * RANKS, row, height=height, width=width))
    w = card_width(CARD)
    for card, rank in enumerate(RANKS.tolist()):
        left = 3 + card * (w + 3)
        shown = picture[5 : CARD + 1, left + 2 : left + w - 2, 0]
        np.testing.assert_array_equal(shown, 255 - ink_of(ATLAS)[rank - 1, 0, 2:-2, 2:-2])


@pytest.mark.parametrize("C", [3, 4, 5])
def test_the_table_is_untouched_outside_the_cards(C):
    row = lay_out(C, H, W, 20)
    picture = np.asarray(draw_small(make_atlas(20), jnp.arange(C) + 1, jnp.zeros(C, int), row))
    table = (picture == pictures.TABLE).all(-1)
    assert table[:10].all()
    assert table[30:].all()
    half = card_width(20) / 2
    gap = [not np.any(np.abs(j + 0.5 - np.asarray(row.x) * W) < half) for j in range(W)]
    assert table[:, gap].all()
    assert sum(gap) == W - C * card_width(20)
    assert not table[12:28, np.logical_not(gap)].any()


def test_later_cards_lie_on_top_and_cards_of_no_size_are_hidden():
    low, high = (0.4, 0.5, 0.3, 0.7), (0.5, 0.5, -0.2, 0.7)
    hand = functools.partial(draw_small, ATLAS, jnp.array([5, 9]), jnp.array([0, 1]))
    only_high = hand(placed((0.4, 0.5, 0.3, 0.0), high))
    np.testing.assert_array_equal(only_high, hand(placed((0.4, 0.5, 0.3, -1.0), high)))
    both = np.asarray(hand(placed(low, high)))
    covered = (np.asarray(only_high) == 255).all(-1)
    assert covered.any()
    assert (both[covered] == 255).all()
    reverse = draw_small(ATLAS, jnp.array([9, 5]), jnp.array([1, 0]), placed(high, low))
    assert (both != np.asarray(reverse)).any()


def test_no_jitter_is_the_tidy_row():
    row = lay_out(4, H, W, 20)
    same = jitter(jax.random.key(0), row, shift=0.0, rotation=0.0, scale=0.0)
    chex.assert_trees_all_equal(row, same)
    np.testing.assert_array_equal(row.rotation, 0)
    np.testing.assert_allclose(row.scale * H, 20, rtol=1e-6)


@pytest.mark.parametrize(
    ("knob", "moved"), [("shift", {"x", "y"}), ("rotation", {"rotation"}), ("scale", {"scale"})]
)
def test_every_amount_of_jitter_moves_its_own_fields_and_the_picture(knob, moved):
    row = lay_out(4, H, W, 20)
    amounts = {"shift": 0.0, "rotation": 0.0, "scale": 0.0, knob: 0.2}
    many = jax.vmap(lambda key: jitter(key, row, **amounts))(
        jax.random.split(jax.random.key(3), 99)
    )
    for field in ("x", "y", "rotation", "scale"):
        tidy = getattr(row, field)
        by = np.asarray(getattr(many, field) - tidy[None])
        by = by / np.asarray(tidy) if field == "scale" else by
        if field not in moved:
            np.testing.assert_array_equal(by, 0)
            continue
        assert -0.2001 < by.min() < -0.19
        assert 0.19 < by.max() < 0.2001
        assert np.std(by, axis=1).min() > 0  # each card on its own
    one = jax.tree.map(lambda leaf: leaf[0], many)
    there = draw_small(ATLAS, RANKS, HAND_SUITS, one)
    assert (there != draw_small(ATLAS, RANKS, HAND_SUITS, row)).any()


def test_amounts_may_differ_between_cards():
    row = lay_out(4, H, W, 20)
    turned = jitter(
        jax.random.key(0), row, shift=0.0, rotation=jnp.array([0.0, 1, 0, 1]), scale=0.0
    )
    assert (np.asarray(turned.rotation) != 0).tolist() == [False, True, False, True]


def test_a_half_turn_turns_a_card_and_a_quarter_turn_goes_clockwise():
    def one(rotation):
        size = 41
        where = placed((0.5, 0.5, rotation, CARD / size))
        rank, suit = jnp.array([7]), jnp.array([1])
        return np.asarray(draw(ATLAS, rank, suit, where, height=size, width=size), int)

    assert np.abs(one(math.pi) - one(0)[::-1, ::-1]).max() <= 1
    assert np.abs(one(math.pi / 2) - np.rot90(one(0), -1)).max() <= 1
    assert np.abs(one(0) - one(0)[::-1, ::-1]).max() > 100


def reddish(picture):
    picture = np.asarray(picture, int)
    return (picture[..., 0] > picture[..., 1] + 40) & (picture[..., 0] > picture[..., 2] + 40)


@pytest.mark.parametrize("suit", range(4))
def test_red_suits_are_red_and_black_ones_are_not(suit):
    picture = draw_small(ATLAS, RANKS, jnp.full(4, suit), lay_out(4, H, W, CARD))
    assert reddish(picture).any() == (SUITS[suit] in RED)
    assert bool(is_red(jnp.int32(suit))) == (SUITS[suit] in RED)


def test_the_red_flag_changes_colour_only():
    row = lay_out(4, H, W, CARD)
    red = draw_small(ATLAS, RANKS, HAND_SUITS, row, jnp.ones(4, bool))
    black = draw_small(ATLAS, RANKS, HAND_SUITS, row, jnp.zeros(4, bool))
    assert reddish(red).any()
    assert not reddish(black).any()
    red, black = np.asarray(red, float), np.asarray(black, float)
    assert (red >= black).all()
    inked = (red != black).any(-1)
    # Where both are on paper, the same share of ink explains both colours.
    plain = inked & (np.ptp(black, axis=-1) <= 1)
    share = 1 - black[plain, 1] / 255
    for channel in range(3):
        mixture = 255 - share * (255 - pictures.RED_INK[channel])
        assert np.abs(red[plain, channel] - mixture).max() <= 1
    assert plain.sum() > 100
    first = draw_small(ATLAS, RANKS, HAND_SUITS, row, jnp.arange(4) == 0)
    changed = (np.asarray(first) != black).any((0, 2))
    assert changed[: W // 4].any()
    assert not changed[W // 4 + 2 :].any()


def test_the_52_cards_all_differ_even_without_colour():
    ink = ink_of(make_atlas(40)).reshape(52, -1).astype(int)
    apart = np.abs(ink[:, None] - ink[None]).sum(-1)
    assert apart[~np.eye(52, dtype=bool)].min() > 20 * 255  # twenty pixels' worth of ink


def test_the_atlas_keeps_four_neighbours_in_every_corner():
    corners = np.asarray(ATLAS.corners)
    h, w = CARD, card_width(CARD)
    assert corners.shape == (13, 4, h + 1, w + 1)
    assert corners.dtype == np.uint32
    padded = np.pad(ink_of(ATLAS), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for byte, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        np.testing.assert_array_equal(
            corners >> 8 * byte & 255, padded[..., i : i + h + 1, j : j + w + 1]
        )
    chex.assert_trees_all_equal(ATLAS, make_atlas(CARD))


def test_the_contact_sheet_shows_every_card_once():
    sheet = np.asarray(jax.jit(contact_sheet)(ATLAS), float)
    h, w, gap = CARD, card_width(CARD), 2
    assert sheet.shape == (4 * (h + gap), 13 * (w + gap), 3)
    cells = sheet.reshape(4, h + gap, 13, w + gap, 3).transpose(2, 0, 1, 3, 4)
    colours = np.array([pictures.RED_INK if suit in RED else pictures.BLACK_INK for suit in SUITS])
    shares = ink_of(ATLAS)[:, :, 2:-2, 2:-2, None] / 255
    expected = 255 - shares * (255 - colours[:, None, None, :])
    assert np.abs(cells[:, :, 3 : h - 1, 3 : w - 1] - expected).max() <= 1


def test_vmapped_equals_solo_and_traces_once():
    B = 5
    keys = jax.random.split(jax.random.key(0), B)
    ranks = jax.random.randint(keys[0], (B, 4), 1, 14)
    suits = jax.random.randint(keys[1], (B, 4), 0, 4)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw_batch(ranks, suits, keys):
        one = functools.partial(draw_hand, ATLAS, height=H, width=W)
        return jax.vmap(lambda r, s, key: one(r, s, mixed(key)))(ranks, suits, keys)

    batch = np.asarray(draw_batch(ranks, suits, keys), int)
    draw_batch(ranks, suits, keys[::-1])
    for b in range(B):
        solo = np.asarray(draw_small(ATLAS, ranks[b], suits[b], mixed(keys[b])), int)
        assert np.abs(batch[b] - solo).max() <= 1


def test_cards_outside_the_deck_are_drawn_as_some_card():
    picture = draw_small(ATLAS, jnp.array([-99, 0, 14, 2**30]), HAND_SUITS, lay_out(4, H, W, 20))
    assert (np.asarray(picture) == 255).any()


@pytest.mark.parametrize("bad", [0, -1, 2.0, "40", True, None, LARGEST_CARD + 1])
def test_a_bad_height_of_the_atlas_is_an_error(bad):
    with pytest.raises(ValueError, match="card_height="):
        make_atlas(bad)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((2, 40, 90, 20), "C=2 must be 3, 4 or 5"),
        ((6, 40, 900, 20), "C=6 must be"),
        ((True, 40, 90, 20), "C=True must be"),
        ((4, 0, 90, 20), "height=0 must be a positive integer"),
        ((4, 40, -90, 20), "width=-90 must be"),
        ((4, 40, 90, 20.0), r"card_height=20.0 must be"),
        ((4, 40, 900, 41), "card_height=41 does not fit .* give at most 40"),
        ((4, 40, 80, 29), "card_height=29 does not fit .* give at most 28"),
        ((4, 40, 3, 10), "give a width of at least 4"),
    ],
)
def test_a_row_that_cannot_be_is_an_error(arguments, words):
    with pytest.raises(ValueError, match=words):
        lay_out(*arguments)


def test_the_largest_card_that_the_error_names_fits():
    row = lay_out(4, 40, 80, 28)
    edges = np.asarray(row.x) * 80 - card_width(28) / 2
    np.testing.assert_allclose(edges, [0, 20, 40, 60], atol=1e-4)


def test_a_bad_size_of_the_picture_is_an_error():
    for sizes in ({"height": 0, "width": 9}, {"height": 9, "width": 9.0}):
        with pytest.raises(ValueError, match="must be a positive integer"):
            draw_hand(ATLAS, RANKS, HAND_SUITS, lay_out(4, H, W, 20), **sizes)
