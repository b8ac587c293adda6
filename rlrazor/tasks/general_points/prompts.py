"""Prompts: template files, filled for every ordered hand, tokenised once, gathered on the device.

A template is a text with fields `$cards` (text tasks only), `$target`, `$face_rule` and, if wanted,
`$count`, as in string.Template; a dollar sign is written `$$`. Ours are in templates/.
"""

import functools
import itertools
import string
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from rlrazor.tasks.general_points.feedback import as_turn
from rlrazor.tasks.general_points.pieces import FIRST_NUMBER, PIECES
from rlrazor.tasks.general_points.prompt_table import Factored, PromptTable, factor, stack
from rlrazor.tasks.general_points.rule import FACES, RANKS, Rule

FROZEN_TEXT = ("text_frozen",)
TERSE_TEXT = ("text_terse",)  # asks for the formula without the reading steps
DIVERSE_TEXT = tuple(f"text_diverse_{i}" for i in range(1, 7))
FROZEN_IMAGE = ("image_frozen",)
DIVERSE_IMAGE = tuple(f"image_diverse_{i}" for i in range(1, 7))
CLOSED_CHARACTERS = "\n" + "".join(chr(c) for c in range(0x20, 0x7F))

NEEDED = ("target", "face_rule")
BATCH = 8192  # rows tokenised at once
_GAP = "\0"  # stands for a field's text; no template holds it


def load_template(path_or_name: str | Path, *, visual: bool) -> str:
    """The text of one of our templates by name, or of a file by path, with its fields checked."""
    folder = resources.files("rlrazor.tasks.general_points").joinpath("templates")
    ours = sorted(f.name.removesuffix(".txt") for f in folder.iterdir() if f.name.endswith(".txt"))
    name = str(path_or_name)
    file = folder.joinpath(f"{name}.txt") if name in ours else Path(path_or_name)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"template {name!r} cannot be read ({error}); give the path of a UTF-8 text file or "
            f"one of {', '.join(ours)}"
        ) from error
    check_template(text, visual=visual)
    return text


def check_template(text: str, *, visual: bool) -> None:
    """Raises ValueError unless the template has exactly the fields that it needs or may have."""
    if not isinstance(text, str):
        raise ValueError(f"template {text!r} must be a string, such as load_template(...) gives")
    template = string.Template(text)
    shown = text if len(text) <= 60 else f"{text[:60]} ..."
    needed = NEEDED if visual else ("cards", *NEEDED)
    fields = [f"${name}" for name in (*needed, "count")]
    if not template.is_valid() or _GAP in text:
        raise ValueError(f"template {shown!r} has a stray '$' or NUL; write '$$' for a dollar sign")
    found = template.get_identifiers()
    missing = [f"${name}" for name in needed if name not in found]
    unknown = [f"${name}" for name in found if f"${name}" not in fields]
    if missing:
        raise ValueError(f"template {shown!r} lacks {', '.join(missing)}; add it")
    if unknown:
        raise ValueError(
            f"template {shown!r} has the unknown field {', '.join(unknown)}; a template for "
            f"{'pictures' if visual else 'text'} may use {', '.join(fields)}"
        )


def face_rule(values: Sequence[int]) -> str:
    """What J, Q and K count, in words; before it any other card that does not count its number."""
    odd = [(r, v) for r, v, usual in zip(RANKS, values, range(1, 11), strict=False) if v != usual]
    faces = list(zip(FACES, values[-3:], strict=True))
    if len(set(values[-3:])) > 1:
        return _listed([f"{rank} counts {value}" for rank, value in odd + faces])
    alike = f"J, Q and K each count {values[-1]}"
    return "; ".join(filter(None, [_listed([f"{r} counts {v}" for r, v in odd]), alike]))


def _listed(clauses: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(clauses[:-1]), *clauses[-1:]]))


def cards_text(ranks: Sequence[int]) -> str:
    """The cards as they stand in a prompt and in the answer: `"A", "8", "3", "K"`."""
    return ", ".join(f'"{RANKS[rank - 1]}"' for rank in ranks)


def fill(template: str, rule: Rule, ranks: Sequence[int] = ()) -> str:
    """The prompt for one hand; for a picture, which shows the hand, without ranks."""
    return _filled(template, rule).replace(_GAP, cards_text(ranks))


def prompt_table(
    templates: Sequence[str],
    rule: Rule,  # as the prompt states it; the judge may go by another
    encode_batch: Callable[[list[str]], Sequence[Sequence[int]]],
    *,
    visual: bool,
) -> PromptTable:
    """Tokenises every wording for every ordered hand of ranks, or once if cards are pictures.

    Each whole prompt is given to `encode_batch`, BATCH of them at a time, so that ids are those of
    the text and memory does not grow with the length of a prompt.
    """
    if not templates:
        raise ValueError("templates is empty; give one or more, such as load_template(...)")
    for template in templates:
        check_template(template, visual=visual)
    cards = 0 if visual else rule.cards
    return stack([_factored(_filled(t, rule), cards, encode_batch) for t in templates])


@functools.lru_cache(maxsize=16)  # a few MB each; a chat template takes half a minute to fill one
def _factored(
    pattern: str, cards: int, encode_batch: Callable[[list[str]], Sequence[Sequence[int]]]
) -> Factored:
    """A wording for every ordered hand; tasks that differ in their judge or rewards share it."""
    return factor(
        encode_batch([pattern.replace(_GAP, c) for c in batch]) for batch in _batches(cards)
    )


def closed_phrases(
    templates: Sequence[str],
    sentences: Sequence[str] = (),
    *,
    largest_number: int = 99,
) -> list[str]:
    """Phrases that make single symbols of a closed vocabulary, for prompts, answers and feedback.

    The fixed text between two fields of a template, a sentence, a card with its quotes, a number,
    each stretch of the JSON skeleton: a prompt and its answer are then some 60 symbols.
    """
    if not 0 <= largest_number < len(PIECES) - FIRST_NUMBER:
        raise ValueError(
            f"largest_number={largest_number} must be 0 to {len(PIECES) - FIRST_NUMBER - 1}"
        )
    gaps: dict[str, str] = dict.fromkeys(("cards", *NEEDED, "count"), _GAP)
    fixed = [part for t in templates for part in string.Template(t).substitute(gaps).split(_GAP)]
    faces = [f"{between}{rank} counts " for rank in RANKS for between in ("", ", ", " and ")]
    alike = ["J, Q and K each count ", "; J, Q and K each count "]
    skeleton = PIECES[: FIRST_NUMBER + largest_number + 1]
    phrases = dict.fromkeys([*skeleton, *fixed, *faces, *alike, *map(as_turn, sentences)])
    return [phrase for phrase in phrases if phrase]


def _filled(template: str, rule: Rule) -> str:
    """The prompt with a gap for the cards."""
    return string.Template(template).substitute(
        cards=_GAP, target=rule.target, face_rule=face_rule(rule.values), count=rule.cards
    )


def _batches(cards: int) -> Iterator[list[str]]:
    """The texts of all ordered hands, in the order of `hand_row`."""
    hands = itertools.product(range(1, 14), repeat=cards)
    while batch := list(itertools.islice(hands, BATCH)):
        yield [cards_text(ranks) for ranks in batch]
