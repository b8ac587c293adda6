"""Two ways to judge answers in Python, one at a time: exactly, and as published code does it."""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

TWIN = Path(__file__).parents[2] / "tests" / "oracles" / "points_judge.py"
OBJECT = re.compile(r"\{[^{}]*\}")
TOKEN = re.compile(r"[0-9]+|\S")
SYMBOLS = frozenset("+-*/()")
REFUSED = re.compile(r"\*\*|//|[0-9)]\(")  # powers, which may never end, and calls


def load_twin() -> Callable[..., dict[str, bool]]:
    """`judge(text, ranks, rule)`, every flag of one answer: what the verifier is proved by.

    Read by path, since tests are no package to import from.
    """
    spec = importlib.util.spec_from_file_location("points_judge", TWIN)
    if spec is None or spec.loader is None or not TWIN.is_file():
        raise ValueError(f"there is no {TWIN} to compare with; run this in a checkout")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.judge


def string_eval(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether an answer is right, by the usual shortcut: tokens, a count of them, and `eval`.

    It says right or wrong only, in floats, which refuse some exact solutions: less than the
    verifier finds out. The filter lets through integers and single operators, so that nothing runs
    but arithmetic that ends at once.
    """
    objects = OBJECT.findall(text)
    try:
        formula = json.loads(objects[-1])["formula"].split("=")[0]
    except (IndexError, KeyError, ValueError):
        return False
    tokens = TOKEN.findall(formula)
    digits = [token for token in tokens if token[0] in "0123456789"]
    symbols = [token for token in tokens if token[0] not in "0123456789"]
    if not SYMBOLS.issuperset(symbols) or any(len(number) > 3 for number in digits):
        return False
    if Counter(map(int, digits)) != Counter(numbers):
        return False
    if REFUSED.search("".join(tokens)):
        return False
    try:
        return eval(" ".join(tokens), {"__builtins__": {}}) == target
    except (SyntaxError, ZeroDivisionError, TypeError):
        return False
