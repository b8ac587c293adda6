"""Two ways to judge answers in Python, one at a time: exactly, and as published code does it."""

import ast
import importlib.util
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TWIN = Path(__file__).parents[2] / "tests" / "oracles" / "points_judge.py"
OBJECT = re.compile(r"\{[^{}]*\}")
TOKEN = re.compile(r"[0-9]+|\S")
SYMBOLS = frozenset("+-*/()")
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


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


def check(name: str, found: dict[str, Any], truth: list[dict[str, bool]]) -> None:
    """Raises ValueError unless every flag of every answer is the twin's."""
    for flag, flags_found in found.items():
        expected = np.array([verdict[flag] for verdict in truth])
        if not np.array_equal(np.ravel(flags_found), np.resize(expected, np.size(flags_found))):
            raise ValueError(f"{name}: {flag!r} is not what the twin says, so speed means nothing")


def string_eval(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether an answer is right, by the usual shortcut: tokens, a count of them, Python's parser.

    It says right or wrong only, in floats, which refuse some exact solutions: less than the
    verifier finds out. Published code calls `eval`; here the syntax tree is walked instead.
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
    try:
        return _value(ast.parse(" ".join(tokens), mode="eval").body) == target
    except (SyntaxError, ZeroDivisionError, KeyError):
        return False


def _value(node: ast.expr) -> float:
    """Of integers and single operators; SyntaxError or KeyError for whatever else was written."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.UnaryOp(op, operand):
            return OPERATORS[type(op)](_value(operand))
        case ast.BinOp(left, op, right):
            return OPERATORS[type(op)](_value(left), _value(right))
    raise SyntaxError(f"{type(node).__name__} is no arithmetic")
