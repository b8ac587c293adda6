r"""Judges whether the final answer of a text is the right one.

A truth is a number, a letter of a multiple choice, words, or other mathematics, and what an answer
says last is looked for and compared accordingly:

- thinking (`<think>...</think>`) does not count, and beside an `<answer>...</answer>` nothing else;
- the last `\boxed{...}` decides, else GSM8K's `####`, else "the answer is ...", else the last
  number, the letter said to be chosen, or the last line;
- numbers are equal as exact fractions, with or without units, currency and percent sign (50% is 50
  and .5); letters and words without case, brackets and markdown; mathematics as text, else by
  math-verify (`latex.py`).

A truth without box and mark is taken whole, never cut to its last number.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rlrazor.tasks.protocol import Verdict
from rlrazor.tasks.questions import endings, latex, letters
from rlrazor.tasks.questions.quantities import Quantity, clean, quantity, same_quantity

_LONGEST = 20_000  # characters of an answer's end that are compared
_WORDS_OF_TRUTH = 12  # more, without box and mark, are prose and no final answer
NUMBER, LETTER, WORDS, MATHS = "number", "letter", "words", "maths"


@dataclasses.dataclass(frozen=True)
class _Truth:
    """A truth as it is compared."""

    text: str
    plain: str
    kind: str
    number: Quantity | None = None


@dataclasses.dataclass(frozen=True)
class _Found:
    """What comparing without math-verify has found, and the pair that it leaves to math-verify."""

    right: bool = False
    none: bool = False  # the answer has no final answer
    pair: tuple[str, str] | None = None


def is_right(answer: str, truth: str) -> bool:
    """Judges one answer; never raises, for what a model says is data."""
    return bool(judge([""], [answer], [truth])[0].correct)


def judge(prompts: Sequence[str], answers: Sequence[str], truths: Sequence[Any]) -> list[Verdict]:
    """A Verdict for each answer; right, wrong and no answer are kept apart.

    `failures` has `no_answer` and `timed_out` (math-verify came to its limit of time or memory).
    Only texts are seen here: an answer that was truncated by a limit looks like a finished one,
    and "12" of "1234" like 12. Whoever samples knows, and applies `truncated`.
    """
    if not len(prompts) == len(answers) == len(truths):
        raise ValueError(
            f"got {len(prompts)} prompts, {len(answers)} answers and {len(truths)} truths; give "
            "one of each"
        )
    found = [_compare(answer, truth) for answer, truth in zip(answers, truths, strict=True)]
    pairs = [one.pair for one in found if one.pair is not None]
    equal = iter(latex.equalities(pairs) if pairs and latex.installed() else [])
    verdicts = []
    for one in found:
        said = next(equal, latex.DIFFERENT) if one.pair is not None else latex.DIFFERENT
        right = one.right or said == latex.EQUAL
        failures: dict[str, Any] = {"no_answer": one.none, "timed_out": said == latex.LIMIT}
        verdicts.append(Verdict(reward=float(right), correct=right, failures=failures))  # type: ignore[arg-type]
    return verdicts


def truncated(verdict: Verdict) -> Verdict:
    """The verdict of an answer that was cut off by a limit: it has not said its last."""
    failures: dict[str, Any] = {**verdict.failures, "truncated": True}
    return Verdict(reward=0.0, correct=False, failures=failures)  # type: ignore[arg-type]


def unreadable(truth: Any) -> str | None:
    """Why no answer could be right for this truth, or None."""
    if not isinstance(truth, str | int | float):
        return f"it is of type {type(truth).__name__}, not a text or a number"
    text = str(truth)
    wanted = _truth(text)
    if wanted is None:
        if not text.strip() or endings.after_thinking(text) is None:
            return "it is empty" if not text.strip() else "its <think> has no end"
        return (
            f"it has no final answer: no \\boxed{{...}}, no ####, and with more than "
            f"{_WORDS_OF_TRUTH} words it is prose"
        )
    if wanted.kind is MATHS and not latex.installed():
        return f"it is mathematics, which is compared by math-verify; {latex.INSTALL}"
    return None


@functools.lru_cache(maxsize=65536)
def _truth(text: str) -> _Truth | None:
    text = endings.after_thinking(text) or ""
    text = endings.answer_tag(text) or text
    told = _unnested(endings.last_box(text)) or _marked(text, None)
    if told is None:
        told = text.strip()
        if "\n" in told or len(told) > 40:
            told = endings.cue(told) or told
        told = endings.without_cue(told)
        if _is_prose(told):
            return None
    told = endings.plain_ends(told) if len(told) > 1 else told
    if not told:
        return None
    cleaned, plain = clean(told[:_LONGEST]), _plain(told)
    option = letters.letter(cleaned)
    value = _without_variable(cleaned)
    number = quantity(value, loose=False)
    if number is not None:
        return _Truth(value, plain, NUMBER, number)
    if option:
        return _Truth(option, option.casefold(), LETTER)
    phrase = _PHRASE.search(_COMMAND.sub(" ", cleaned))
    kind = MATHS if _SYMBOL.search(cleaned) and not phrase else WORDS
    return _Truth(told, plain, kind)


_SYMBOL = re.compile(r"[\\^=<>+*/_|{}\[\](),]|\d|\b[A-Za-z]\s*-\s*[A-Za-z]\b")
_PHRASE = re.compile(r"(?<![A-Za-z])[A-Za-z]{3,}[ ,]+(?:\w+[ ,]+)?[A-Za-z]{3,}")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def _compare(answer: str, truth: Any) -> _Found:
    wanted = _truth(str(truth)) if isinstance(truth, str | int | float) else None
    if wanted is None or not isinstance(answer, str):
        return _Found(none=not isinstance(answer, str) or not answer.strip())
    if answer.strip() == str(truth).strip():
        return _Found(right=True)
    text = endings.after_thinking(answer)
    if text is None or not text.strip():
        return _Found(none=True)
    text = endings.answer_tag(text) or text
    box = endings.last_box(text)
    if box is not None:
        return _judge_whole(_unnested(box) or box, wanted)
    if len(text) <= _LONGEST and _plain(text) == wanted.plain:
        return _Found(right=True)
    marked = _marked(text, wanted)
    if marked is not None:
        return _judge_marked(marked, wanted)
    by_kind = {NUMBER: _number_at_end, LETTER: _letter_at_end, WORDS: _words_at_end}
    return by_kind.get(wanted.kind, _maths_at_end)(text, wanted)


def _judge_whole(said: str, wanted: _Truth) -> _Found:
    """`said` is the answer and nothing else, as in a box."""
    if len(said) > _LONGEST:
        return _Found(right=_plain(said) == wanted.plain)
    said = endings.plain_ends(said) or said
    if _plain(said) == wanted.plain:
        return _Found(right=True)
    said = endings.without_cue(said)
    cleaned = clean(said)
    if wanted.kind is LETTER:
        return _Found(right=letters.letter(cleaned) == wanted.text)
    if wanted.kind is WORDS:
        return _Found(right=_plain(said) == wanted.plain)
    number = quantity(_without_variable(cleaned))
    if number is not None and wanted.number is not None:
        return _Found(right=same_quantity(number, wanted.number))
    return _by_maths(said, wanted)


def _judge_marked(line: str, wanted: _Truth) -> _Found:
    """`line` stands behind `####`, where GSM8K's number is the first, whatever follows it."""
    if wanted.number is None:
        whole = _judge_whole(line, wanted)
        if whole.right or wanted.kind is MATHS:
            return whole
        cued = endings.without_cue(line)
        lead = re.match(r"\(?([A-Za-z])\)?(?=[).:,;]|\s*$)", endings.plain_ends(cued))
        if wanted.kind is LETTER:
            said = lead[1].upper() if lead and not letters.hedged(cued) else None
            return _Found(right=said == wanted.text)
        return _Found(right=_plain(re.split(r"[,.;:!]", cued)[0]) == wanted.plain)
    said = quantity(_without_variable(clean(line)))
    if said is None:
        told = endings.number_in(endings.without_cue(line), first=True) or endings.number_in(line)
        said = quantity(told) if told else None
        if told and said is None and "\\" in line:
            return _by_maths(line, wanted)
    return _Found(right=said is not None and same_quantity(said, wanted.number))


def _number_at_end(text: str, wanted: _Truth) -> _Found:
    cued = endings.cue(text)
    closing = None if cued else endings.closing_maths(text)
    told = (cued and _number_said(cued)) or (closing and _number_said(closing))
    told = told or endings.number_in(text)
    if told is None:
        return _Found(none=True)
    said = quantity(told)
    if said is not None and wanted.number is not None:
        return _Found(right=same_quantity(said, wanted.number))
    return _by_maths(told, wanted) if re.search(r"[\\^]", told) else _Found()


def _number_said(cued: str) -> str | None:
    """Of what "the answer is" says: all of it if it is one number with a unit, else its last."""
    whole = _without_variable(clean(cued))
    return whole if quantity(whole) is not None else endings.number_in(cued)


def _letter_at_end(text: str, wanted: _Truth) -> _Found:
    said = letters.chosen(text)
    return _Found(right=said == wanted.text, none=said is None)


_OPPOSITES = ({"yes", "no"}, {"true", "false"})


def _words_at_end(text: str, wanted: _Truth) -> _Found:
    cued = endings.cue(text)
    if cued is not None:
        said = {_plain(cued), _plain(re.split(r"[,;:(]", cued)[0])}
        said.add(_plain(endings.cue(text, line=True) or ""))
        return _Found(right=wanted.plain in said)
    sentence = endings.last_sentence(text)
    behind = re.split(r"(?i)\b(?:is|are|was|were|it's|be)\b|[:=]", sentence)[-1]
    begin = re.split(
        r"[,.;:!?\n(]|\s[-\u2013\u2014]\s", endings.plain_ends(text[:200]), maxsplit=1
    )[0]
    line = endings.last_line(text)
    so = re.sub(r"^(?:so|thus|therefore|hence)\b,?\s*", "", sentence, flags=re.IGNORECASE)
    said = {_plain(part) for part in (line, sentence, behind, begin, so)}
    if any(pair <= said for pair in _OPPOSITES):
        return _Found()
    short = len(text) < 200 and len(text.split()) <= 8
    known = any(said & pair for pair in _OPPOSITES)
    right = wanted.plain in said
    return _Found(right=right, none=not (right or short or known))


def _maths_at_end(text: str, wanted: _Truth) -> _Found:
    cued = endings.cue(text)
    maths = endings.last_maths(cued) if cued else None
    line = endings.last_line(text)
    said = maths or cued or endings.last_maths(text) or (line if len(line) < 200 else None)
    if said is None or not re.search(r"\d|\\|[^\w\s.,]|\b[A-Za-z]\b", said):
        return _Found(none=True)
    found = _judge_whole(said, wanted)
    value = said.rpartition("=")[2]
    if not found.right and value != said and _plain(value) == wanted.plain:
        return _Found(right=True)
    return found


def _by_maths(said: str, wanted: _Truth) -> _Found:
    """Left to math-verify where both sides look like mathematics."""
    if wanted.kind not in (NUMBER, MATHS) or not re.search(r"\d|\\|[A-Za-z]", said):
        return _Found()
    gold, said = _bare(wanted.text), _bare(said)
    if wanted.number is not None and isinstance(wanted.number.value, Fraction):
        gold = str(wanted.number.value)
    if any(_LOST.search(text) or _WORD.search(clean(text)) for text in (gold, said)):
        return _Found()
    return _Found(pair=(gold, said))


# What math-verify reads over: the base of a number, what is left out of a list, a reaction's arrow.
_LOST = re.compile(r"\d\s*_|\\[lcdv]?dots|\.\.\.|\u2026|->|[\u2190-\u21ff]|\\(?:long)?rightarrow")
_WORD = re.compile(r"(?<![A-Za-z\\{])(?!(?:and|sqrt|sin|cos|tan|log|exp)\b)[A-Za-z]{3,}")
_UNIT_AT_END = re.compile(
    r"(?:\\[,;:! ]|\s)*\\(?:text|mathrm|mbox)\s*\{[^{}()]*\}(?:\^\{?\d\}?)?\s*$"
)


def _bare(text: str) -> str:
    r"""Without unit, and `$`, `\(` and `\[`, which would end the maths that math-verify reads."""
    text = re.sub(r"\\?\$|\\[()\[\]]", "", text).strip()
    return _UNIT_AT_END.sub("", text) or text


def _marked(text: str, wanted: _Truth | None) -> str | None:
    """The line behind the last `####` that is GSM8K's mark and not a heading."""
    if "####" not in text:
        return None
    for line, last in endings.marks(text):
        if not line:
            continue
        told = endings.without_cue(line)
        leads = re.match(r"[-+~≈$€£¥₹*(\[\\\s\u2212]*(?:US)?\$?\s*[.\d]|[$\\(]*\\[dt]?frac", told)
        word = re.fullmatch(r"(?:yes|no|true|false)\b.{0,2}", told, re.IGNORECASE)
        if leads or word or letters.letter(clean(told)):
            return line
        if wanted is not None and _plain(told) == wanted.plain:
            return line
        if last and not re.fullmatch(
            r"(?:final |the )*(?:answer|solution|result)\W*", line.lower()
        ):
            return line
    return None


def _without_variable(cleaned: str) -> str:
    """The 5 of x = 5, of 5 = x, and of about 5, and the 12 of 7 + 5 = 12."""
    cleaned = _ABOUT.sub("", cleaned)
    name, equals, value = cleaned.rpartition("=")
    left = name.strip()
    if re.fullmatch(r"\s*[A-Za-z]\s*", value) and quantity(left) is not None:
        return left
    if equals and (
        re.fullmatch(r"\\?[A-Za-z]\w?|\\[a-z]+|[A-Za-z]_\{?\w+\}?|[A-Za-z]\([A-Za-z]\)", left)
        or (re.search(r"\d", left) and re.fullmatch(r"[\d\s.,()+*/^{}-]+", left))
    ):
        return value.strip()
    return cleaned


_ABOUT = re.compile(r"^(?:\\approx|~|about\b|approximately\b|approx\b\.?)\s*")


def _is_prose(text: str) -> bool:
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", text))
    sentences = re.search(r"[A-Za-z]{2}[.!?]\s+[A-Z]", text)
    return len(words) > _WORDS_OF_TRUTH or (sentences is not None and len(words) > 6)


def _unnested(box: str | None) -> str | None:
    inner = endings.last_box(box) if box is not None else None
    return inner or box


_IGNORED = re.compile(r"[\s$`\"'\u201c\u201d\u2018\u2019]+")
_MARKDOWN = re.compile(r"(?<![\w)*_])[*_]+|[*_]+(?![\w(*_])")  # not the * of 3*4


def _plain(text: str) -> str:
    """As texts are compared: without spaces, case, maths mode, markdown, and what is around it."""
    text = re.sub(r"(?<=\d)\s+(?=\d)", "~", clean(text).casefold())  # 4 2 is not 42
    text = _MARKDOWN.sub("", _IGNORED.sub("", re.sub(r"^the\s+", "", text)))
    return re.sub(r"(?:\.|(?<=[^\W\d_]{2})!)+$", "", text) or text  # n! is no exclamation
