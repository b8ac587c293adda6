"""Where a text says its final answer: boxes, GSM8K's mark, "the answer is", the last number.

All of it takes time in proportion to the length of the text.
"""

import re
from collections.abc import Iterator

from rlrazor.tasks.questions.quantities import LONGEST, SCALES, UNITS, clean

_TAIL = 4000  # characters at the end of a text in which cues, words and numbers are looked for

_AROUND = "*_`\"'\u201c\u201d\u2018\u2019"  # markdown and quotation marks

_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\s\S]|[{}]")
_MARK = re.compile(r"(?<![#])####(?!#)")
_CORRECTION = re.compile(
    r"\b(?:wait|actually|correction|sorry|oops|rather|i mean|let me (?:re|double))", re.IGNORECASE
)
_EXPLANATION = re.compile(
    r",? \b(?:because|since|as|which|where|when|for|after|so that|due to)\b.*"
    r"|,? (?:but )?not\b.*| \((?=[^()\\]*\b[A-Za-z]{3}).*",
    re.DOTALL,
)
_CUE = re.compile(
    r"\bans(?:wer)?\b(?:\s+(?:to|for|of)\b[^.:\n]{0,80}?)?[\s*_]*"
    r"(?:(?:is|are|was|would be|should be|must be|will be|equals)\b|:|=|\n)"
    r"(?:\s*(?:therefore|thus|then|hence|simply|just|clearly|definitely|indeed|option|choice)\b)?[\s*_:]*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.?;](?=[\s*_\"')]|$)|!(?=\s*$|\s+[A-Z])|\n")


def after_thinking(text: str) -> str | None:
    """Without `<think>...</think>`; None where the thinking has no end.

    What stands before a lone `</think>` is thinking, too: many templates open it in the prompt.
    """
    tags = list(_THINK.finditer(text))
    if not tags:
        return text
    if not tags[-1][1]:
        return None
    return text[tags[-1].end() :]


def answer_tag(text: str) -> str | None:
    """What the last closed `<answer>...</answer>` holds."""
    start, found = None, None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()], None
    return found


def last_box(text: str) -> str | None:
    r"""What the last closed `\boxed{...}` that is not empty holds; braces inside are counted."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    opened: list[tuple[int, bool]] = []  # where what is in a brace begins, and if it is a box
    best = (-1, -1)
    for brace in _BRACES.finditer(text):
        if brace.group() == "}":
            if opened:
                start, box = opened.pop()
                if box and start > best[0] and text[start : brace.start()].strip():
                    best = (start, brace.start())
        elif brace.group()[-1] == "{" and brace.group() != r"\{":
            opened.append((brace.end(), brace.group() != "{"))
    if best[0] < 0:
        bare = re.findall(r"\\boxed\s+([^\s{}$\\]+)", text[-_TAIL:])
        return bare[-1] if bare else None
    return text[best[0] : best[1]].strip()


def marks(text: str) -> Iterator[tuple[str, bool]]:
    """Lines behind `####`, the last first, and whether nothing follows the line.

    Chat models write headings with the same four characters, so the reader must look what stands
    there. Only the last few are tried.
    """
    for mark in [*_MARK.finditer(text)][:-9:-1]:
        line, _, rest = text[mark.end() :].lstrip(" \t").partition("\n")
        yield line.strip().strip("*_").strip(), not rest.strip()


def cue(text: str, *, line: bool = False) -> str | None:
    """What the last "the answer is ..." says, up to the end of the sentence or an explanation.

    None if it is taken back behind that. With `line` to the end of the line, for names with full
    stops in them.
    """
    text = text[-_TAIL:]
    cues = [*_CUE.finditer(text)]
    rest = text[cues[-1].end() :] if cues else ""
    if not rest.strip():
        return None
    end = _SENTENCE_END.search(rest)
    said, behind = (rest[: end.start()], rest[end.end() :]) if end else (rest, "")
    if line:
        return plain_ends(rest.partition("\n")[0]) or None
    said = _EXPLANATION.sub("", said)
    if _CORRECTION.search(rest[len(said) :]) or _CORRECTION.search(behind):
        return None
    return plain_ends(said) or None


def plain_ends(text: str) -> str:
    """Without the markdown, quotation marks and full stops around it."""
    return text.strip().strip(_AROUND).strip().rstrip(".").strip(f"{_AROUND} \t")


def last_line(text: str) -> str:
    line = text.rstrip()[-_TAIL:].rpartition("\n")[2]
    return plain_ends(re.sub(r"^\s*[-\u2022]\s+", "", line))


def last_sentence(text: str) -> str:
    """Of the last line."""
    return plain_ends(re.split(r"(?<=[.!?;])\s+", last_line(text))[-1])


def closing_maths(text: str) -> str | None:
    r"""The maths that a text ends with, `\[x = 5\]`, unless it is the second of "$5$ or $6$"."""
    end = text.rstrip()[-_TAIL:].rstrip(".,;: *_")
    found = _MATHS_AT_END.search(end)
    if found is None or _BEFORE.search(end[: found.start()]):
        return None
    return next(part for part in found.groups() if part).strip() or None


def last_maths(text: str) -> str | None:
    r"""What the last `$...$`, `\(...\)` or `\[...\]` holds."""
    found = re.findall(
        r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(([^\n]+?)\\\)|\\\[([^$]+?)\\\]", text[-_TAIL:]
    )
    return next((part for part in found[-1] if part), None) if found else None


_MATHS_AT_END = re.compile(
    r"(?:\$\$([^$]+)\$\$|\\\[((?:(?!\\\[)[^$])+?)\\\]|\\\(((?:(?!\\\()[^\n$])+?)\\\)"
    r"|(?<!\$)\$([^$\n]+)\$)\Z"
)
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's annotations
_GLUE = re.compile(r"\s*(\*\*|[\^*/+=<>]|\\(?:le|ge|lt|gt|ne|approx|pm)q?\b)\s*")
_MINUS = re.compile(
    r"(?<=[\d)}\]])\s*-\s*(?=[\d(\\.]|[a-z]\b)|(?<=\b[a-zA-Z])\s*-\s+(?=\d)|(?<=[=(])- "
)
_TIMES = re.compile(r"(?<=\d)\s*x\s*(?=\d)")
_CLUSTER = re.compile(r"\S+")
_ARROW = re.compile(r"[-=]+>|[\u2192\u21d2]|\\(?:Long|long)?[Rr]ightarrow\b|\\(?:to|implies)\b")
_DIGIT = re.compile(r"\d")
_NAME = re.compile(r"[A-Za-z]{2,}[-_]?\d+[A-Za-z]*|\d+-[A-Za-z-]{2,}")  # COVID-19, 7-year-old
_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])")  # 10**3 is a power
_LIST = re.compile(r"(?:^|\b(?:is|are)\s|[=:(\[{]\s*)(?:\S*\d\S*,\s+)+$")
_MONTH = re.compile(
    r"\b(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec)"
    r"(?:uary|ruary|ch|il|ust|tember|ober|ember)?\.?\s+(?:\d+(?:st|nd|rd|th)?,?\s+)?$"
)
_HEDGE = re.compile(r"(?:,|\s+(?:or|to|and|through)\b)(?:\s+(?:or|and))?\s+[^\w\s]?\d")
_COMMAND = re.compile(r"\\(?:sqrt|frac|log|ln|sin|cos|tan|pm)\s*$")
_BEFORE = re.compile(
    r"\d\S*\s+(?:or|to|and|through|out of|mod|choose|divided by)\s+$"
    r"|\b(?:not|isn't|never)\s+(?:equal to\s+)?$",
    re.IGNORECASE,
)


def number_in(text: str, *, first: bool = False) -> str | None:
    """The last number of a text in `clean` spelling, with what makes another one of it.

    It is the last run of characters with a digit in it, so a date, a range or a product such as
    2024-01-05, 5-10 or 10^2 comes back whole, and never as its last digits. "5 or 6" likewise.
    With `first` the first, if the text begins with it.
    """
    text = text if len(text) <= _TAIL else text[_window(text) :]
    text = _ARROW.sub("=", clean_lines(_CALCULATOR.sub("", text)))
    text = _BOLD.sub("", re.sub(r"(?m)^(?:[-*+]|>) ", "", text))
    text = _TIMES.sub("*", _MINUS.sub("-", _GLUE.sub(r"\1", text)))
    clusters = [
        cluster
        for cluster in _CLUSTER.finditer(text)
        if _DIGIT.search(cluster.group())
        and not _NAME.fullmatch(cluster.group().strip(".,;:!?()[]\"'*_"))
    ]
    if not clusters:
        return None
    found = clusters[0 if first else -1]
    if first and re.search(r"\w", text[: found.start()]):
        return None
    said = found.group().strip(_AROUND).rstrip(f".,;:!?{_AROUND}").lstrip("~#")
    left, _, right = said.replace(r"\approx", "=").rpartition("=")
    said = _unwrapped(right if _DIGIT.search(right) else left)
    before, behind = text[: found.start()], text[found.end() :]
    command = _COMMAND.search(before)
    if command:
        said = command[0] + said
    if re.fullmatch(r"\d+/\d+", said):
        mixed = re.search(r"(?<![\w.,/^*+-])-?\d+ $", before)
        said = mixed.group() + said if mixed else said
    line = before[-200:].rpartition("\n")[2]
    if not first and (_BEFORE.search(line) or _LIST.search(line) or _MONTH.search(line)):
        return line + said
    if first and _HEDGE.match(behind if found.group()[-1] != "," else f",{behind}"):
        return said + behind
    word = (
        re.match(r"\s*([A-Za-z]+|\\[a-z]+)", behind) if found.group()[-1] not in ".,;:!?" else None
    )
    if re.match(r"\s*%", behind):
        said += "%"
    elif word and (word[1].lower() in _TELLING or word[1][0] == "\\"):
        said += f" {word[1]}"
    return said


# Words behind a number that are part of what it says; "in" and single letters may be anything.
_TELLING = frozenset(
    {word for word in UNITS if len(word) > 1 and word != "in"}
    | {"m", "g"}
    | set(SCALES)
    | {"pi", "sqrt", "squared", "cubed", "factorial", "half", "halves"}
)


def clean_lines(text: str) -> str:
    return "\n".join(map(clean, text.split("\n")))


def _window(text: str) -> int:
    """Where the tail begins, at white space, so that no number that can be read is cut."""
    white = max(text.rfind(" ", 0, -_TAIL), text.rfind("\n", 0, -_TAIL)) + 1
    return max(white, len(text) - LONGEST - _TAIL)


def _unwrapped(text: str) -> str:
    """Without brackets that have no partner, and a pair that is around everything."""
    for left, right in ("()", "[]"):
        if text.startswith(left) and text.endswith(right) and "," not in text:
            text = text[1:-1]
        if text.startswith(left) and right not in text:
            text = text[1:]
        if text.endswith(right) and left not in text:
            text = text[:-1]
    return text.rstrip(".,;:!?")


_CUE_BEFORE = re.compile(
    r"^(?:so|thus|therefore|hence)?,?\s*(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)*"
    r"(?:ans(?:wer)?|result|solution|total|option|choice)\.?\s*(?:is\b|=|:)[\s*_:]*",
    re.IGNORECASE,
)


def without_cue(text: str) -> str:
    text = text.strip()
    return _CUE_BEFORE.sub("", text.lstrip("*_ ")).strip() or text
