"""Letters of a multiple choice: which one a text chooses."""

import re

from rlrazor.tasks.questions import endings
from rlrazor.tasks.questions.quantities import clean

_OPTION = r"[\s*_(\[{\"'`$]*(?:\\text\w*\{)?\(?([A-Za-z])\b(?![\u2019'\-](?:[A-Za-z]))"
_CHOICE = re.compile(
    rf"\b(?:(?:answer|option|choice|be|is|it's|choose|chose|pick|select|go with|say|guess)\b[:\s]*)"
    rf"(?:\s*(?:option|choice|answer|letter)\b[:\s]*)?{_OPTION}",
    re.IGNORECASE,
)
_CORRECT = re.compile(
    rf"(?:so|thus|therefore|hence)?,?\s*(?:option|choice|answer)?{_OPTION}[)*_\]}}\s]*"
    r"is (?:the )?(?:correct|right|best|answer)\b.*",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?m)^[\s*_]*\(?([A-Z])[*_]*[).:](?=[\s*_]|$)")
_BEGINS = re.compile(r"[\s*_]*\(?([A-Z])[*_]*(?:[).:]|,?\s+(?:because|since)\b|,|\n)")


def chosen(text: str) -> str | None:
    """The letter that a text chooses; "" for one that takes back or hedges its choice."""
    whole = letter(clean(text)) if len(text) < 1000 else None
    if whole:
        return whole
    cued = endings.cue(text)
    if cued is not None:
        if hedged(cued):
            return ""
        lead = re.match(_OPTION, cued)
        if lead and re.match(r"\s*(?:$|[).:,;*\]}\"'`$]|is\b|as\b|-)", cued[lead.end() :]):
            return lead[1].upper()
        if letter(clean(cued)):
            return letter(clean(cued))
    line = letter(clean(endings.last_line(text)))
    if line:
        return line
    display = endings.closing_maths(text)
    if display and letter(clean(display)) and not text.rstrip(" .*_\n").endswith("$"):
        return letter(clean(display))
    sentence = endings.last_sentence(text)
    for tail in reversed([*_CHOICE.finditer(sentence)]):
        rest = sentence[tail.end() :].strip("*_)]}\"'`$. ")
        beside = re.match(r"(?:because|since|as|not)\b|is (?:correct|right)", rest.lstrip(", "))
        if not beside and re.search(r"\b[A-HJ-Z]\b(?!')", rest):
            return ""
        if not rest or re.match(r"(?:because|since|as|is (?:correct|right)|[,:;-])", rest):
            return "" if hedged(sentence[tail.start(1) :]) else tail[1].upper()
    correct = _CORRECT.fullmatch(sentence)
    if correct:
        return correct[1].upper()
    options = set(_LISTED.findall(text[-4000:]))
    begins = _BEGINS.match(text)
    if begins and options <= {begins[1]} and not hedged(text[begins.start(1) :][:40]):
        if _OTHER.search(text[begins.end() :].partition("\n")[0]):
            return ""
        return begins[1]
    return "" if hedged(text[:100]) else None


def hedged(text: str) -> bool:
    """Two letters offered as one answer: "A or B", "A, C"."""
    return bool(
        re.match(
            r"\W*[A-Za-z]\b[).*_\]]*\s*(?:,|/|&|;|\bor\b|\band\b)+\s*"
            r"(?:(?:or|and|option|possibly|maybe)\s+)*[(*_\[]*(?:[B-HJ-Z]|[AI](?![ ][a-z]))\b",
            text,
        )
    )


def letter(cleaned: str) -> str | None:
    """The one letter that a text is, or an option's letter before the option: "(B)", "B. Paris"."""
    said = endings.plain_ends(endings.without_cue(endings.plain_ends(cleaned)))
    said = re.sub(r"^(?:option|choice|letter)\s+", "", said, flags=re.IGNORECASE)
    found = re.fullmatch(r"[(\[{<*_]*([A-Za-z])[)\]}>*_.:,!?]*", said)
    if found and not (found[1].islower() and "!" in said):  # n! is a factorial
        return found[1].upper()
    before = re.match(
        r"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])[*_]*[).:][*_]*(?=\s))[*_]*[:.]?\s*(\S.*)", said
    )
    if before and "\n" not in said and not _OTHER.search(before[4]):
        return before[1] or before[2] or before[3]
    return None


_OTHER = re.compile(r"\([A-Z]\)|\b[A-Z][).](?:\s|$)|\b(?:answer|option|choice|wait|actually)\b")
