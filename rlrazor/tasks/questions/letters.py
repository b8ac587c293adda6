"""Letters of a multiple choice: which one a text chooses."""

import re

from rlrazor.tasks.questions import endings
from rlrazor.tasks.questions.quantities import clean

_OPTION = r"[\s*_(\[{\"'`$]*(?:\\text\w*\{)?\(?([A-Za-z])\b(?![\u2019'\-](?:[A-Za-z]))"
_CHOICE = re.compile(
    r"\b(?:answer|option|choice|correct|be|is|it's|choose|chose|pick|select|go with|say|guess)\b"
    rf"[:\s]*(?:\s*(?:option|choice|answer|letter)\b[:\s]*)?{_OPTION}",
    re.IGNORECASE,
)
_CORRECT = re.compile(
    rf"(?:.{{0,80}},|so|thus|therefore|hence)?\s*(?:option|choice|answer)?{_OPTION}[)*_\]}}\s]*"
    r"is (?:the )?(?:correct|right|best|answer)\b.*",
    re.IGNORECASE,
)
_BEHIND = re.compile(r"\s*(?:$|[).:,;*\]}\"'`$]|is\b|as\b|-)")  # an option's letter, no article
_REASON = re.compile(r"(?:because|since|as)\b|is (?:correct|right)\b")
_LISTED = re.compile(r"(?m)^[\s*_]*\(?([A-Z])[*_]*[).:](?=[\s*_]|$)")
_BEGINS = re.compile(r"[\s*_]*\(?([A-Z])[*_]*(?:[).:]|,?\s+(?:because|since)\b|,|\n)")
_OTHER = re.compile(r"\([A-Z]\)|\b[A-Z][).](?:\s|$)|\b(?:answer|option|choice|wait|actually)\b")


def chosen(text: str) -> str | None:
    """The letter that a text chooses; "" for one that takes back or hedges its choice."""
    for look in (_whole, _cued, _last, _said, _first):
        found = look(text)
        if found is not None:
            return found
    return "" if hedged(text[:100]) else None


def _whole(text: str) -> str | None:
    return letter(clean(text)) if len(text) < 1000 else None


def _cued(text: str) -> str | None:
    """Behind "the answer is"."""
    cued = endings.cue(text)
    if cued is None:
        return None
    if hedged(cued):
        return ""
    lead = re.match(_OPTION, cued)
    if lead and _BEHIND.match(cued[lead.end() :]):
        return lead[1].upper()
    return letter(clean(cued))


def _last(text: str) -> str | None:
    """As the last line, displayed maths, or sentence."""
    display = None if text.rstrip(" .*_\n").endswith("$") else endings.closing_maths(text)
    parts = (endings.last_line(text), display or "", endings.last_sentence(text))
    return next((found for part in parts if (found := letter(clean(part)))), None)


def _said(text: str) -> str | None:
    """In the last sentence: "I choose B, because ...", "B is correct", "definitely (B)"."""
    sentence = endings.last_sentence(text)
    bracketed = set(re.findall(r"\(([A-Z])\)", text))
    if len(bracketed) == 1 and re.fullmatch(r"(?:(?!not|nor)\w+,? ){0,3}\([A-Z]\)", sentence):
        return bracketed.pop()
    for choice in reversed([*_CHOICE.finditer(sentence)]):
        rest = sentence[choice.end() :].strip("*_)]}\"'`$. ")
        explained = re.match(r",?\s*not\b", rest) or _REASON.match(rest.lstrip(", "))
        if not explained and re.search(r"\b[A-HJ-Z]\b(?!')", rest):
            return ""
        if not rest or _REASON.match(rest) or rest[0] in ",:;-":
            return "" if hedged(sentence[choice.start(1) :]) else choice[1].upper()
    correct = _CORRECT.fullmatch(sentence)
    return correct[1].upper() if correct else None


def _first(text: str) -> str | None:
    """At the beginning, if no other option is listed: "B. Paris, because ..."."""
    options, begins = set(_LISTED.findall(text[-4000:])), _BEGINS.match(text)
    if not begins or not options <= {begins[1]} or hedged(text[begins.start(1) :][:40]):
        return None
    return "" if _OTHER.search(text[begins.end() :].partition("\n")[0]) else begins[1]


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
    found = re.fullmatch(r"[-(\[{<*_]*([A-Za-z])[)\]}>*_.:;,!?]*", said)
    if found and not (found[1].islower() and "!" in said):  # n! is a factorial
        return found[1].upper()
    before = re.match(
        r"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])[*_]*[).:][*_]*(?=\s))[*_]*[:.]?\s*(\S.*)", said
    )
    if before and "\n" not in said and not _OTHER.search(before[4]):
        return before[1] or before[2] or before[3]
    return None
