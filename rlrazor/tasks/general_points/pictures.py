"""Hands of cards as pictures, drawn on the device: where cards lie and what is red are data.

A card is a rounded sheet of paper with a thin outline, both computed exactly at every size, and
the ink of its face, read from an atlas. Cards are laid one over the other, the last on top.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.tasks.general_points.atlas import Atlas, card_width, check_pixels
from rlrazor.tasks.general_points.rule import RANKS, RED, SUITS

TABLE = (24, 110, 64)  # colours are red, green, blue
PAPER = (255, 255, 255)
OUTLINE = (96, 96, 96)
RED_INK = (208, 16, 32)
BLACK_INK = (0, 0, 0)
CORNER = 0.06  # radius of a card's corners, of its height
LINE = 0.012  # width of its outline, of its height, but never under a pixel


@struct.dataclass
class Placement:
    """Where the cards of one hand lie, at any resolution."""

    x: jax.Array  # f32[C] a card's centre: 0 left edge of the picture, 1 right edge
    y: jax.Array  # f32[C] 0 top edge, 1 bottom edge
    rotation: jax.Array  # f32[C] radians, clockwise as seen
    scale: jax.Array  # f32[C] a card's height, of the picture's; 0 or less hides the card


def lay_out(C: int, height: int, width: int, card_height: int) -> Placement:
    """A tidy row: cards upright, in the middle, evenly spread, on whole pixels."""
    if C not in (3, 4, 5) or isinstance(C, bool):
        raise ValueError(f"C={C!r} must be 3, 4 or 5 cards")
    sizes = {"height": height, "width": width, "card_height": card_height}
    for name, size in sizes.items():
        check_pixels(name, size)
    if card_height > height or C * card_width(card_height) > width:
        fits = max((h for h in range(1, height + 1) if C * card_width(h) <= width), default=0)
        raise ValueError(
            f"card_height={card_height} does not fit {C} cards side by side into a picture of "
            f"height={height}, width={width}; "
            + (f"give at most {fits}" if fits else f"give a width of at least {C}")
        )
    wide = card_width(card_height)
    free, upper = width - C * wide, (height - card_height) // 2
    left = np.array([wide * card + free * (card + 1) // (C + 1) for card in range(C)])
    return Placement(
        x=jnp.asarray((left + wide / 2) / width, jnp.float32),
        y=jnp.full(C, (upper + card_height / 2) / height, jnp.float32),
        rotation=jnp.zeros(C),
        scale=jnp.full(C, card_height / height, jnp.float32),
    )


def jitter(
    key: jax.Array,
    placement: Placement,  # f32[C] each
    *,
    shift: jax.Array | float,  # f32[] or f32[C] of the picture's width and height
    rotation: jax.Array | float,  # f32[] or f32[C] radians
    scale: jax.Array | float,  # f32[] or f32[C] of a card's own size
) -> Placement:
    """Moves, turns and resizes every card on its own, uniformly within plus or minus the amounts.

    Cards may then overlap or leave the picture, which cuts them.
    """
    (C,) = placement.x.shape
    dx, dy, turn, grow = jax.random.uniform(key, (4, C), minval=-1.0, maxval=1.0)
    return Placement(
        x=placement.x + shift * dx,
        y=placement.y + shift * dy,
        rotation=placement.rotation + rotation * turn,
        scale=placement.scale * (1 + scale * grow),
    )


def is_red(
    suits: jax.Array,  # i32[C]
) -> jax.Array:  # bool[C]
    """Hearts and diamonds."""
    return jnp.array([suit in RED for suit in SUITS])[suits]


def draw_hand(
    atlas: Atlas,
    ranks: jax.Array,  # i32[C] 1 = A, ..., 13 = K
    suits: jax.Array,  # i32[C] index into SUITS
    placement: Placement,  # f32[C] each
    red: jax.Array | None = None,  # bool[C] colour of the ink; hearts and diamonds if not given
    *,
    height: int,
    width: int,
) -> jax.Array:  # u8[height, width, 3]
    """One hand on a green table, cards in order, later ones over earlier ones."""
    check_pixels("height", height)
    check_pixels("width", width)
    (C,) = ranks.shape
    red = is_red(suits) if red is None else red
    chex.assert_shape([suits, red, *jax.tree.leaves(placement)], (C,))
    *_, rows, columns = atlas.corners.shape
    h, w = rows - 1, columns - 1
    cards = _Card(
        x=placement.x * width,
        y=placement.y * height,
        cos=jnp.cos(placement.rotation),
        sin=jnp.sin(placement.rotation),
        zoom=placement.scale * height / h,
        entry=jnp.clip((ranks - 1) * len(SUITS) + suits, 0, len(RANKS) * len(SUITS) - 1),
        red=red,
    )
    bare = jnp.zeros((height, width))
    pile = _Pile(bare + 1, bare, bare, bare, bare.astype(jnp.int32), bare > 0)
    # A scan, for it has a place in the atlas computed once and kept: unrolled, it is computed again
    # wherever it is used, which is several times slower and may not round alike.
    pile, _ = jax.lax.scan(lambda pile, card: (_lay_on(pile, card, h, w), None), pile, cards)
    ink = _sample(atlas, pile)
    inside = 1 - pile.table - pile.outline
    planes = []
    for channel in range(3):
        inked = jnp.where(pile.red, RED_INK[channel], BLACK_INK[channel])
        face = PAPER[channel] + ink * (inked - PAPER[channel])
        rest = TABLE[channel] * pile.table + OUTLINE[channel] * pile.outline
        planes.append(rest + face * inside)
    return jnp.round(jnp.stack(planes, axis=-1)).astype(jnp.uint8)


def contact_sheet(atlas: Atlas) -> jax.Array:  # u8[H, W, 3]
    """All 52 cards at the atlas's own size: a row a suit, ranks from A to K."""
    C = len(RANKS)
    h, w = (side - 1 for side in atlas.corners.shape[2:])
    gap = 2 * max(1, h // 24)  # even: cards in the middle of their cells lie on whole pixels
    height, width = h + gap, C * (w + gap)
    placement = Placement(
        x=(jnp.arange(C) + 0.5) / C,
        y=jnp.full(C, 0.5),
        rotation=jnp.zeros(C),
        scale=jnp.full(C, h / height),
    )

    def strip(suit: jax.Array) -> jax.Array:
        suits = jnp.broadcast_to(suit, C)
        return draw_hand(atlas, jnp.arange(C) + 1, suits, placement, height=height, width=width)

    return jax.vmap(strip)(jnp.arange(len(SUITS))).reshape(-1, width, 3)


@struct.dataclass
class _Card:
    """A card of the hand; f32[C] each until the scan takes one."""

    x: jax.Array  # f32[] its centre, in pixels
    y: jax.Array  # f32[]
    cos: jax.Array  # f32[] of its rotation
    sin: jax.Array  # f32[]
    zoom: jax.Array  # f32[] pixels of the picture per pixel of the atlas
    entry: jax.Array  # i32[] its place among the 52
    red: jax.Array  # bool[]


@struct.dataclass
class _Pile:
    """What shows at every pixel of the picture; the rest of a pixel is inside an outline.

    A face begins a line, at least a pixel, inside its card, where the paper hides all beneath: so
    only one face shows at a pixel, and one reading of the atlas serves all cards.
    """

    table: jax.Array  # f32[height, width] share of the table
    outline: jax.Array  # f32[height, width] share of outlines
    row: jax.Array  # f32[height, width] where to read the face that shows: row of the atlas
    column: jax.Array  # f32[height, width]
    entry: jax.Array  # i32[height, width] which face
    red: jax.Array  # bool[height, width] whether its ink is red


def _lay_on(pile: _Pile, card: _Card, h: int, w: int) -> _Pile:
    """The pile with one more card, from an atlas of h by w pixels, on its top."""
    height, width = pile.table.shape
    zoom = jnp.maximum(card.zoom, 1e-3)  # cards of no size are hidden below, and divide by this
    right = (jnp.arange(width) + 0.5 - card.x)[None, :]
    down = (jnp.arange(height) + 0.5 - card.y)[:, None]
    across, along = card.cos * right + card.sin * down, card.cos * down - card.sin * right
    # Signed distance in pixels to a rectangle with rounded corners, negative inside.
    radius = CORNER * h * zoom
    beyond_x = jnp.abs(across) - w * zoom / 2 + radius
    beyond_y = jnp.abs(along) - h * zoom / 2 + radius
    outside = jnp.sqrt(jnp.maximum(beyond_x, 0) ** 2 + jnp.maximum(beyond_y, 0) ** 2)
    distance = outside + jnp.minimum(jnp.maximum(beyond_x, beyond_y), 0) - radius
    line = jnp.maximum(1, LINE * h * zoom)
    covers = jnp.where(card.zoom > 0, jnp.clip(0.5 - distance, 0, 1), 0)
    face = jnp.clip(0.5 - distance - line, 0, 1)
    shows = (card.zoom > 0) & (face > 0)
    return _Pile(
        table=pile.table * (1 - covers),
        outline=pile.outline * (1 - covers) + covers * (1 - face),
        row=jnp.where(shows, along / zoom + (h - 1) / 2, pile.row),
        column=jnp.where(shows, across / zoom + (w - 1) / 2, pile.column),
        entry=jnp.where(shows, card.entry, pile.entry),
        red=jnp.where(shows, card.red, pile.red),
    )


def _sample(atlas: Atlas, pile: _Pile) -> jax.Array:  # f32[height, width] share of ink
    """Bilinear between the four pixels of the atlas around the place, without ink beyond it."""
    *_, rows, columns = atlas.corners.shape
    top, left = jnp.floor(pile.row), jnp.floor(pile.column)
    at_row = jnp.clip(top.astype(jnp.int32) + 1, 0, rows - 1)
    at_column = jnp.clip(left.astype(jnp.int32) + 1, 0, columns - 1)
    at = (pile.entry * rows + at_row) * columns + at_column
    four = atlas.corners.reshape(-1).at[at].get(mode="promise_in_bounds")
    upper_left, upper_right, lower_left, lower_right = (
        (four >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16, 24)
    )
    upper = upper_left + (pile.column - left) * (upper_right - upper_left)
    lower = lower_left + (pile.column - left) * (lower_right - lower_left)
    return (upper + (pile.row - top) * (lower - upper)) / 255
