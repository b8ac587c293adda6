"""Whether the last thing an answer says is the right one: numbers exactly, all else as text."""

import re
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|[-+]?\.\d+")
_LONGEST = 64  # characters of a number; a longer one is not read


def is_right(answer: str, truth: str) -> bool:
    """Judges by the final answer: never raises, for what a model says is data.

    The final answer of a text is what stands in its last `\\boxed{...}`, else behind its last
    `####`, else its last number. Numbers are equal as fractions ("0.5" is "1/2", "1,000" is
    "1000"); anything else is compared as text without spaces, dollar signs and case.
    """
    said, wanted = final_answer(answer), final_answer(truth)
    if said is None or wanted is None:
        return False
    numbers = _number(said), _number(wanted)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _plain(said) == _plain(wanted)


def final_answer(text: str) -> str | None:
    """None for a text that ends in no answer."""
    boxed = _last_box(text)
    if boxed is not None:
        return boxed
    if "####" in text:
        return text.rpartition("####")[2].strip() or None
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _last_box(text: str) -> str | None:
    """What the last closed `\\boxed{...}` holds; braces inside it are counted."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for place in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start + len("\\boxed{") : place].strip()
        start = text.rfind("\\boxed{", 0, start)
    return None


def _number(text: str) -> Fraction | None:
    text = _plain(text).rstrip(".")
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):  # "1,2" is no number
        return None
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def _plain(text: str) -> str:
    return re.sub(r"[\s$]", "", text).casefold()
