"""The procedural tasks once more, in plain Python on plain text."""

import re

NUMBERS = r"(0|[1-9][0-9]*) (0|[1-9][0-9]*)"
DIGITS = r"([0-9](?: [0-9])*)"
LETTERS = r"([a-j](?: [a-j])*)"


def solve(question: str) -> str:
    """The answer to a question; ValueError if it is not written as documented."""
    for pattern, answer in GRAMMAR.items():
        if match := re.fullmatch(f"{pattern} =", question):
            return str(answer(*match.groups()))
    raise ValueError(f"no task asks {question!r}")


def subtract(a, b):
    assert int(a) >= int(b), (a, b)
    return int(a) - int(b)


GRAMMAR = {
    f"add {NUMBERS}": lambda a, b: int(a) + int(b),
    f"subtract {NUMBERS}": subtract,
    f"larger {NUMBERS}": lambda a, b: a if int(a) > int(b) else b,
    f"sort {DIGITS}": lambda items: " ".join(sorted(items.split())),
    f"reverse {LETTERS}": lambda items: " ".join(items.split()[::-1]),
    f"count ([a-j]) in {LETTERS}": lambda letter, items: items.split().count(letter),
    f"max {DIGITS}": lambda items: max(items.split()),
    f"copy {LETTERS}": lambda items: items,
}


def judge(answer: bytes, right: str) -> str:
    """The failure's name, or an empty string."""
    said = answer.split(b"\0")[0].strip(b" \t\n\r")
    if not said:
        return "no_answer"
    return "" if said == right.encode() else "wrong_answer"


def held_out(question: str) -> bool:
    """The documented hash, byte by byte."""
    h = 0
    for byte in question.encode():
        h = (h * 16777619 + byte) % 2**32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ (h >> shift)) * factor % 2**32
    return h % 10 == 0
