"""The faces of the 52 cards, drawn once on the host as coverage masks without colour.

Font: DejaVu Sans Bold, which matplotlib carries (Bitstream Vera licence, free to use and share).
The suits are its glyphs too.
"""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import struct
from PIL import Image, ImageDraw, ImageFont

from rlrazor.tasks.general_points.rule import RANKS, SUITS

LARGEST_CARD = 2048  # pixels of height; keeps every index into an atlas inside 32 bits
_GLYPHS = {"spades": "\u2660", "hearts": "\u2665", "diamonds": "\u2666", "clubs": "\u2663"}
_FINER = 8  # drawn this much larger, then averaged down, so that edges are smooth
# Boxes as fractions of a card's width and height: centre x, centre y, width, height.
_RANK = (0.29, 0.20, 0.46, 0.29)  # these two also in the lower half, turned
_SMALL_SUIT = (0.76, 0.17, 0.30, 0.22)
_LARGE_SUIT = (0.50, 0.50, 0.42, 0.28)


@struct.dataclass
class Atlas:
    """The ink of every face at one size; paper and outline are drawn without an atlas.

    Kept by corners of pixels: an entry holds the ink of the four pixels that meet there, a byte
    each (from the lowest: upper left, upper right, lower left, lower right; 0 none, 255 all), so
    that a bilinear sample is a single read.
    """

    corners: jax.Array  # u32[13, 4, h + 1, w + 1] rank, suit, row, column


def card_width(card_height: int) -> int:
    """Pixels of width of a card, five to seven as for playing cards, rounded."""
    return max(1, round(card_height * 5 / 7))


def make_atlas(card_height: int) -> Atlas:
    """Draws every rank (A, 2, ..., K) of every suit, `card_height` pixels high.

    Sampled bilinearly, so make it about as high as its cards are shown: much smaller pictures of it
    would alias. Faces are legible from some 30 pixels.
    """
    check_pixels("card_height", card_height)
    if card_height > LARGEST_CARD:
        raise ValueError(f"card_height={card_height} is too large; give at most {LARGEST_CARD}")
    size = card_width(card_height), card_height
    faces = [[_face(rank, _GLYPHS[suit], size) for suit in SUITS] for rank in RANKS]
    ink = np.pad(np.array(faces, np.uint32), ((0, 0), (0, 0), (1, 1), (1, 1)))
    above, below = ink[..., :-1, :], ink[..., 1:, :]
    pairs = above | below << 16
    return Atlas(corners=jnp.asarray(pairs[..., :-1] | pairs[..., 1:] << 8))


def check_pixels(name: str, number: object) -> None:
    """Raises ValueError unless `number` is a positive Python integer."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{name}={number!r} must be a positive integer, in pixels")


def _face(rank: str, suit: str, size: tuple[int, int]) -> np.ndarray:  # u8[h, w]
    """One card: rank and suit above, the same below but turned, and a larger suit between."""
    fine = size[0] * _FINER, size[1] * _FINER
    corner, middle = Image.new("L", fine), Image.new("L", fine)
    _write(corner, rank, _RANK)
    _write(corner, suit, _SMALL_SUIT)
    _write(middle, suit, _LARGE_SUIT)
    turned = corner.transpose(Image.Transpose.ROTATE_180)
    ink = np.maximum.reduce([np.asarray(part) for part in (corner, turned, middle)])
    return np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS))


def _write(image: Image.Image, text: str, box: tuple[float, float, float, float]) -> None:
    """Draws `text` to fill the height of `box`, squeezed where it would be wider than the box."""
    x, y, width, height = (
        round(part * side) for part, side in zip(box, image.size * 2, strict=True)
    )
    path = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    font = ImageFont.truetype(str(path), 2 * height)
    left, top, right, bottom = map(round, font.getbbox(text))
    glyph = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(glyph).text((-left, -top), text, fill=255, font=font)
    drawn = min(width, round(glyph.width * height / glyph.height))
    glyph = glyph.resize((max(1, drawn), max(1, height)), Image.Resampling.LANCZOS)
    image.paste(glyph, (x - glyph.width // 2, y - glyph.height // 2))
