"""Reads results.jsonl, one line a run and checkpoint, into columns.

Lines are of schema 2 (rlrazor/lines.py) or of the first schema, which legacy.py brings to the same
columns; REQUIRED lists what any line must say, so anybody's runs can be analysed. MEASURED columns
that no line has are NaN throughout: nothing was tested there. Every other column is optional, and
a line may leave it out or give null (None in a text column, NaN in a number column).
`hyperparameters` is the one nested object, flattened to `hyperparameters/<name>`.

Derived columns, fractions of one: `forgetting` = prior/base_accuracy - prior/accuracy, `gain` =
new/accuracy - new/base_accuracy and, for each shift that was tested, `shift/<name>/change` =
shift/<name>/accuracy - shift/<name>/base_accuracy. `flops_total` = flops + flops_teacher: what a
policy cost, its teacher and its start included.
"""

import json
import lzma
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlrazor.analysis.legacy import roles_of, upgraded
from rlrazor.lines import (
    FAMILIES,
    MAIN,
    MEASURED,
    SCHEMA,
    Family,
    check_field,
    check_line,
    kind_of,
)

REQUIRED = ("run", "arm", "seed", "step", "final")
# What results that were read always have, measured or not.
ALWAYS = (*REQUIRED, "study", "method", "variant", "family", "label", "roles", *MEASURED)
BASE_PREFIX = "hyperparameters/base_"  # what distinguishes bases of one seed: base_epochs, ...
BASE_SEED = f"{BASE_PREFIX}seed"  # where lines have it, a base is made anew from each seed

_NUMBER = (int, float)
_DERIVED = {  # name -> (minuend, subtrahend)
    "forgetting": ("prior/base_accuracy", "prior/accuracy"),
    "gain": ("new/accuracy", "new/base_accuracy"),
}
_CHANGE = re.compile(r"(shift/[^/]+)/change")
_TEXT_KINDS = ("text", "name", "family", "roles")


@dataclass(frozen=True, eq=False)
class Results:
    """Columns of equal length N, one row a run and checkpoint."""

    columns: Mapping[str, np.ndarray]  # f64[N] numbers, i64[N], bool[N], text: str[N] or object[N]

    def __getitem__(self, name: str) -> np.ndarray:
        if name == "flops_total":
            teacher = self.columns.get("flops_teacher", np.zeros(len(self)))
            return self["flops"] + np.nan_to_num(teacher)
        if parts := _difference(name):
            return self[parts[0]] - self[parts[1]]
        if name not in self.columns:
            raise ValueError(
                f"no column {name!r} in these results; there are {', '.join(sorted(self.columns))}"
            )
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        if name == "flops_total":
            return "flops" in self.columns
        return all(part in self.columns for part in _difference(name) or (name,))

    def __len__(self) -> int:
        return len(self.columns["run"])

    def select(self, mask: np.ndarray) -> "Results":
        """Rows where mask bool[N] is true (or the rows of an index array), in order."""
        return Results({name: values[mask] for name, values in self.columns.items()})

    def of_arms(self, *arms: str) -> "Results":
        return self.select(np.isin(self["arm"], arms))

    def final(self) -> "Results":
        """The last checkpoint of every run that has one."""
        return self.select(self["final"])

    def trained(self) -> "Results":
        """Rows after step 0: a row of step 0 is the base itself, on any law by construction."""
        return self.select(self["step"] > 0)

    def finite(self, *names: str) -> tuple["Results", int]:
        """Rows where all the named columns are finite, and how many rows that left out."""
        keep = np.ones(len(self), bool)
        for name in names:
            keep &= np.isfinite(self[name].astype(float))
        return self.select(keep), int(np.sum(~keep))

    def has(self, *names: str) -> bool:
        """Whether each of these columns has a finite value somewhere: it was measured."""
        return all(n in self and bool(np.isfinite(self[n].astype(float)).any()) for n in names)

    @property
    def families(self) -> Mapping[str, Family]:
        """Arm -> its family, families in order, then arms as they first appear."""
        found = dict(zip(self["arm"].tolist(), self["family"].tolist(), strict=True))
        return {arm: f for f in FAMILIES for arm, its in found.items() if its == f}

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms present, family by family, as they first appear."""
        return tuple(self.families)

    def of_family(self, family: Family) -> tuple[str, ...]:
        return tuple(arm for arm, its in self.families.items() if its == family)

    def cast(self, role: str, *families: Family) -> tuple[str, ...]:
        """Arms with this part in comparisons (rlrazor/lines.py), of these families or of any."""
        parts = dict(zip(self["arm"].tolist(), self["roles"].tolist(), strict=True))
        return tuple(
            arm
            for arm, family in self.families.items()
            if role in parts[arm].split() and family in (families or FAMILIES)
        )

    @property
    def rl(self) -> tuple[str, ...]:
        """What "RL" means in comparisons: the plain methods that learn from a reward."""
        return self.cast("plain", "reward")

    @property
    def sft(self) -> tuple[str, ...]:
        """What "SFT" means in comparisons: plain imitation of answers not its own."""
        return self.cast("plain", "outside")

    @property
    def shifts(self) -> tuple[str, ...]:
        """Places of the shifts that were tested, as they first appear: "shift/rule", ..."""
        names = (re.fullmatch(r"(shift/[^/]+)/accuracy", name) for name in self.columns)
        return tuple(match[1] for match in names if match)

    @property
    def study(self) -> str:
        """The one study that all rows are of; "" where there are several or none has a name."""
        names = {str(name) for name in self["study"]} if "study" in self.columns else set()
        return names.pop() if len(names) == 1 else ""

    @property
    def seeds(self) -> np.ndarray:
        """Sorted distinct seeds i64[S]."""
        return np.unique(self["seed"])

    @property
    def n_runs(self) -> int:
        return len(np.unique(self["run"]))

    @property
    def base_ids(self) -> np.ndarray:
        """i64[N], equal where two rows share their base: seed and every hyperparameter base_*.

        Numbered from 0 in the order of those values, not of the rows.
        """
        keys = [self["seed"], *(self[name] for name in _base_columns(self))]
        codes = [np.unique(key.astype(str), return_inverse=True)[1].ravel() for key in keys]
        return np.unique(np.stack(codes, -1), axis=0, return_inverse=True)[1].ravel()


def load_results(
    paths: str | Path | Sequence[str | Path], *, families: Mapping[str, Family] | None = None
) -> Results:
    """Reads one or more results.jsonl files; ValueError names file:line and the column at fault.

    A name that ends with .xz is of a compressed one, such as those of experiments/results.
    `families` says what arms of the first schema learn from that legacy.py does not know.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    rows: list[dict] = []
    places: list[str] = []  # file:line of each row, for errors
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(f"no results at {path}; give the results.jsonl of a workdir")
        lines = _bytes_of(path).split(b"\n")
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{path}:{number}"
                row = _parse(line, place, torn=number == len(lines))
                try:
                    rows.append(_checked(row, families or {}))
                except ValueError as error:
                    raise ValueError(f"{place}: {error}") from None
                places.append(place)
    if not rows:
        raise ValueError(
            f"no lines in {', '.join(map(str, paths))}; the run that writes them has not reached"
            " its first checkpoint"
        )
    _check_runs(rows, places)
    names = dict.fromkeys(name for row in rows for name in row)  # ordered, each once
    columns = {name: _column(name, rows, places) for name in names}
    return Results(columns | {n: np.full(len(rows), math.nan) for n in MEASURED if n not in names})


def _bytes_of(path: Path) -> bytes:
    packed = path.read_bytes()
    if path.suffix != ".xz":
        return packed
    try:
        return lzma.decompress(packed)
    except lzma.LZMAError as error:
        raise ValueError(f"{path} is no whole .xz file ({error}); make or fetch it anew") from None


def main_base(results: Results) -> Results:
    """Rows of the base strength (hyperparameters base_*) that most runs start from.

    Accuracies of differently strong bases do not belong on one frontier; the flip map is the
    place that compares them. Without base_* hyperparameters: everything. Ties: first by value.
    Bases that were made alike from several seeds are of one strength.
    """
    names = _base_columns(results)
    if BASE_SEED in results:
        names = [name for name in names if name not in ("base", BASE_SEED)]
    if not names or not len(results):
        return results
    codes = [np.unique(results[n].astype(str), return_inverse=True)[1].ravel() for n in names]
    strength = np.unique(np.stack(codes, -1), axis=0, return_inverse=True)[1].ravel()
    _, first = np.unique(results["run"], return_index=True)
    return results.select(strength == np.argmax(np.bincount(strength[first])))


def main_variant(results: Results) -> Results:
    """Rows of the methods themselves, where there are variants of them."""
    return results.select(results["variant"] == MAIN)


def by_base(results: Results) -> dict[str, Results]:
    """The rows of each starting model by its name, in order; one entry where there is but one.

    Bases that were made from seeds are units of one study, not models to be told apart.
    """
    if BASE_SEED in results:
        return {"": results}
    names = [str(name) for name in results["base"]] if "base" in results else [""] * len(results)
    return {name: results.select(np.array(names) == name) for name in dict.fromkeys(names)}


def _difference(name: str) -> tuple[str, str] | None:
    """(minuend, subtrahend) of a derived column, None of any other."""
    match = _CHANGE.fullmatch(name)
    if match:
        return f"{match[1]}/accuracy", f"{match[1]}/base_accuracy"
    return _DERIVED.get(name)


def _base_columns(results: Results) -> list[str]:
    return sorted(n for n in results.columns if n.startswith(BASE_PREFIX) or n == "base")


def _parse(line: bytes, place: str, torn: bool) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        hint = (
            "the file ends in the middle of a line, as after a kill: resume the run, or delete it"
            if torn
            else "every line must be one JSON object"
        )
        raise ValueError(f"{place}: not JSON ({error}); {hint}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: got {type(row).__name__}; every line must be one JSON object")
    return row


def _checked(row: dict[str, Any], families: Mapping[str, Family]) -> dict[str, Any]:
    """One line of either schema as flat columns of schema 2."""
    schema = row.get("schema", 1)
    if schema == SCHEMA:
        check_line(row)
    elif schema == 1:
        _check_first_schema(row)
        row = upgraded(row, families)
    else:
        raise ValueError(f"'schema' must be {SCHEMA} (1 or none in older files), got {schema!r}")
    nested = row.pop("hyperparameters", None) or {}
    row |= {f"hyperparameters/{name}": value for name, value in nested.items()}
    if row.get("roles") is None:
        row["roles"] = roles_of(row["family"], row["arm"], row["method"])
    return row


def _check_first_schema(row: dict[str, Any]) -> None:
    """It may hold numbers that are not finite: they are excluded and counted later."""
    for name in REQUIRED:
        if name not in row:
            kind, meaning = kind_of(name)
            raise ValueError(f"no column {name!r} ({kind}: {meaning})")
    nested = row.get("hyperparameters") or {}
    if not isinstance(nested, dict):
        raise ValueError(f"hyperparameters must be an object, got {nested!r}")
    for name, value in _fields(row, nested):
        finite = not isinstance(value, float) or math.isfinite(value)
        check_field(f"shift/rule{name[3:]}" if name.startswith("ood/") else name,
                    value if finite else None)  # fmt: skip


def _fields(row: dict[str, Any], nested: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    yield from ((name, value) for name, value in row.items() if name != "hyperparameters")
    yield from ((f"hyperparameters/{name}", value) for name, value in nested.items())


def _check_runs(rows: list[dict], places: list[str]) -> None:
    """One line a run and step, one arm and seed a run, one final line a run, one family an arm."""
    steps: dict[tuple[str, int], str] = {}
    finals: dict[str, str] = {}
    owners: dict[str, tuple[tuple[str, int], str]] = {}
    families: dict[str, tuple[str, str]] = {}
    for row, place in zip(rows, places, strict=True):
        run, step, owner = row["run"], row["step"], (row["arm"], row["seed"])
        if (run, step) in steps:
            first = steps[run, step]
            raise ValueError(
                f"{place}: run {run!r} has step {step} twice, first at {first}. If these are "
                "different runs (another model, learning rate, data), give each its own name in "
                "'run', or report on their files one by one; if a file is there twice, give it once"
            )
        if row["final"] and run in finals:
            raise ValueError(f"{place}: run {run!r} has two final lines, first at {finals[run]}")
        first_owner, first = owners.setdefault(run, (owner, place))
        if first_owner != owner:
            raise ValueError(
                f"{place}: run {run!r} has arm and seed {owner}, but {first_owner} at {first};"
                " give every run its own name"
            )
        family, where = families.setdefault(row["arm"], (row["family"], place))
        if family != row["family"]:
            raise ValueError(
                f"{place}: arm {row['arm']!r} has the family {row['family']!r}, but {family!r} at "
                f"{where}; give every method its own arm"
            )
        steps[run, step] = place
        if row["final"]:
            finals[run] = place


def _column(name: str, rows: list[dict], places: list[str]) -> np.ndarray:
    values = [row.get(name) for row in rows]
    kind = kind_of(name)[0]
    if kind in _TEXT_KINDS:
        return np.array([v or "" for v in values], str)
    if name in REQUIRED:  # of the other integers and booleans, an older line may have none
        return np.array(values, np.int64 if kind == "integer" else bool)
    number = [isinstance(v, _NUMBER) and not isinstance(v, bool) for v in values]
    if any(number):
        for value, is_number, place in zip(values, number, places, strict=True):
            if value is not None and not is_number:
                raise ValueError(f"{place}: {name!r} is a number on other lines, here {value!r}")
        return np.array([math.nan if v is None else v for v in values], np.float64)
    nowhere = all(v is None for v in values) and not name.startswith("hyperparameters/")
    if nowhere or name in MEASURED:
        return np.full(len(values), math.nan)  # measured nowhere
    return np.array(values, object)
