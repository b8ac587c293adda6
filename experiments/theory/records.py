"""The kinds of line in theory.jsonl: finding, curve, trace."""

import json
import math
import textwrap

import numpy as np
from numpy.typing import ArrayLike

VERDICTS = {True: "holds", False: "fails", None: "measured"}


def finding(part: str, claim: str, holds: bool | None, found: str, number: ArrayLike) -> dict:
    """One row of the table; `number` is the deviation or gap that decides, `holds` None if none."""
    return {
        "kind": "finding",
        "part": part,
        "claim": claim,
        "verdict": VERDICTS[holds],
        "found": found,
        "number": float(np.asarray(number)),
    }


def curve(part: str, figure: str, series: str, x: float, values: ArrayLike) -> dict:
    """One point of a line: median and quartiles over the runs for which there is a value."""
    present = np.asarray(values, float)
    present = present[~np.isnan(present)]
    quartiles = np.quantile(present, (0.25, 0.5, 0.75)).tolist() if present.size else [None] * 3
    low, y, high = quartiles
    return {
        "kind": "curve", "part": part, "figure": figure, "series": series,
        "x": float(x), "y": y, "low": low, "high": high, "runs": present.size,
    }  # fmt: skip


def trace(part: str, figure: str, series: str, points: ArrayLike) -> dict:
    """A path f[steps, D], drawn as it is."""
    return {
        "kind": "trace", "part": part, "figure": figure, "series": series,
        "points": np.asarray(points, float).round(6).tolist(),
    }  # fmt: skip


def json_line(record: dict) -> str:
    """Strict JSON: a number that does not exist is null."""
    plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}
    return json.dumps(plain, allow_nan=False)


def table(records: list[dict]) -> str:
    """Part, verdict, number and claim of every finding, with what was found below it."""
    lines = []
    for record in records:
        if record["kind"] == "finding":
            head = f"({record['part']}) {record['verdict']:<9}{record['number']:>11.3g}  "
            lines.append(head + record["claim"])
            indent = " " * 26
            lines += textwrap.wrap(
                record["found"], 100, initial_indent=indent, subsequent_indent=indent
            )
    return "\n".join(lines)
