"""Reads results.jsonl, one line a run and checkpoint, into columns.

REQUIRED lists the columns every analysis needs, so anybody's runs can be analysed. Every other
column is optional; a line may leave it out or give null (None in a text column, NaN in a number
column). `hyperparameters` is the one nested object, flattened to `hyperparameters/<name>`.

Three columns are derived: `forgetting` = prior/base_accuracy - prior/accuracy, `gain` =
new/accuracy - new/base_accuracy and, where a rule that training never showed was tested,
`ood_change` = ood/accuracy - ood/base_accuracy, all as fractions of one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REQUIRED: Mapping[str, tuple[str, str]] = {
    "run": ("text", "unique name of the run"),
    "arm": ("text", "the method, one name a variant"),
    "seed": ("integer", "seed of the run and of its base: the independent unit of every interval"),
    "step": ("integer", "training step of the checkpoint"),
    "final": ("boolean", "whether this is the run's last checkpoint"),
    "new/accuracy": ("fraction", "test accuracy on the new task"),
    "new/base_accuracy": ("fraction", "the same before fine-tuning"),
    "prior/accuracy": ("fraction", "mean test accuracy over the prior tasks"),
    "prior/base_accuracy": ("fraction", "the same before fine-tuning"),
    "new/kl_base_policy_nats": ("number", "KL(base||policy), mean over new-task test inputs"),
}
KL = "new/kl_base_policy_nats"
BASE_PREFIX = "hyperparameters/base_"  # what distinguishes bases of one seed: base_epochs, ...
VARIANT, METHOD = "hyperparameters/variant", "hyperparameters/method"
MAIN = "main"  # the variant that is the method itself, in a study of several variants
# On-policy data and reward, nothing else.
RL_ARMS = ("grpo", "grpo_std", "rloo", "reinforce", "dapo", "gspo", "ppo")
RL_KL_ARMS = ("grpo_kl", "grpo_std_kl")  # the same with a KL penalty: no evidence on on-policy data
SFT_ARMS = ("sft1", "sft2", "sft")  # labels from outside, no anchor

_PAPER_ORDER = (
    *SFT_ARMS,
    "oracle",
    "oracle_soft",
    *RL_ARMS,
    *RL_KL_ARMS,
    "simpo",
    "dpo",
    "distilled",
    "on_policy_distillation",
    "sdft",
    "self_sft",
    "iterative_sft",
    "dft",
    "psft",
    "sft_kl_base_policy",
    "sft_kl_policy_base",
)
_NUMBER = (int, float)
_DERIVED = {  # name -> (minuend, subtrahend)
    "forgetting": ("prior/base_accuracy", "prior/accuracy"),
    "gain": ("new/accuracy", "new/base_accuracy"),
    "ood_change": ("ood/accuracy", "ood/base_accuracy"),
}


@dataclass(frozen=True, eq=False)
class Results:
    """Columns of equal length N, one row a run and checkpoint."""

    columns: Mapping[str, np.ndarray]  # f64[N] numbers, i64[N], bool[N], text: str[N] or object[N]

    def __getitem__(self, name: str) -> np.ndarray:
        if name in _DERIVED:
            first, second = _DERIVED[name]
            return self[first] - self[second]
        if name not in self.columns:
            raise ValueError(
                f"no column {name!r} in these results; there are {', '.join(sorted(self.columns))}"
            )
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return all(part in self.columns for part in _DERIVED.get(name, (name,)))

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

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms present, in the paper's order, then any others by name."""
        present = {str(arm) for arm in np.unique(self["arm"])}
        known = [arm for arm in _PAPER_ORDER if arm in present]
        return (*known, *sorted(present - set(known)))

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


def load_results(paths: str | Path | Sequence[str | Path]) -> Results:
    """Reads one or more results.jsonl files; ValueError names file:line and the column at fault."""
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    rows: list[dict] = []
    places: list[str] = []  # file:line of each row, for errors
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(f"no results at {path}; give the results.jsonl of a workdir")
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{path}:{number}"
                rows.append(_flatten(_parse(line, place, torn=number == len(lines)), place))
                places.append(place)
    if not rows:
        raise ValueError(
            f"no lines in {', '.join(map(str, paths))}; the run that writes them has not reached"
            " its first checkpoint"
        )
    _check_runs(rows, places)
    names = dict.fromkeys(name for row in rows for name in row)  # ordered, each once
    return Results({name: _column(name, rows, places) for name in names})


def main_base(results: Results) -> Results:
    """Rows of the base strength (hyperparameters base_*) that most runs start from.

    Accuracies of differently strong bases do not belong on one frontier; the flip map is the
    place that compares them. Without base_* hyperparameters: everything. Ties: first by value.
    """
    names = _base_columns(results)
    if not names or not len(results):
        return results
    codes = [np.unique(results[n].astype(str), return_inverse=True)[1].ravel() for n in names]
    strength = np.unique(np.stack(codes, -1), axis=0, return_inverse=True)[1].ravel()
    _, first = np.unique(results["run"], return_index=True)
    return results.select(strength == np.argmax(np.bincount(strength[first])))


def main_variant(results: Results) -> Results:
    """Rows of the methods themselves, where `hyperparameters/variant` tells variants of them."""
    return results.select(variants(results) == MAIN)


def variants(results: Results) -> np.ndarray:
    """str[N], MAIN where no variant is given."""
    if VARIANT not in results:
        return np.full(len(results), MAIN)
    return np.array([v if isinstance(v, str) else MAIN for v in results[VARIANT]], str)


def methods(results: Results) -> np.ndarray:
    """str[N], the arm where no method is given."""
    if METHOD not in results:
        return results["arm"]
    given = zip(results[METHOD], results["arm"], strict=True)
    return np.array([m if isinstance(m, str) else arm for m, arm in given], str)


def _base_columns(results: Results) -> list[str]:
    return sorted(name for name in results.columns if name.startswith(BASE_PREFIX))


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


def _flatten(row: dict, place: str) -> dict:
    """Moves hyperparameters up and checks the required columns of one line."""
    nested = row.pop("hyperparameters", None) or {}
    if not isinstance(nested, dict):
        raise ValueError(f"{place}: hyperparameters must be an object, got {nested!r}")
    for name, (kind, meaning) in REQUIRED.items():
        if name not in row:
            raise ValueError(f"{place}: no column {name!r} ({kind}: {meaning})")
        if not _is_kind(row[name], kind):
            raise ValueError(
                f"{place}: {name!r} must be of kind {kind} ({meaning}), got {row[name]!r}"
            )
    row |= {f"hyperparameters/{name}": value for name, value in nested.items()}
    for name, value in row.items():
        if isinstance(value, dict | list):
            raise ValueError(f"{place}: {name!r} must be a number, text or null, got {value!r}")
    return row


def _is_kind(value: object, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str) and value != ""
    if kind == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int)
    if value is None:  # a NaN that its writer turned into null: excluded and counted later
        return True
    if not isinstance(value, _NUMBER):
        return False
    return kind == "number" or not math.isfinite(value) or 0 <= value <= 1


def _check_runs(rows: list[dict], places: list[str]) -> None:
    """One line a run and step, one arm and seed a run, at most one final line a run."""
    steps: dict[tuple[str, int], str] = {}
    finals: dict[str, str] = {}
    owners: dict[str, tuple[tuple[str, int], str]] = {}
    for row, place in zip(rows, places, strict=True):
        run, step, owner = row["run"], row["step"], (row["arm"], row["seed"])
        if (run, step) in steps:
            first = steps[run, step]
            raise ValueError(f"{place}: run {run!r} has step {step} twice, first at {first}")
        if row["final"] and run in finals:
            raise ValueError(f"{place}: run {run!r} has two final lines, first at {finals[run]}")
        first_owner, first = owners.setdefault(run, (owner, place))
        if first_owner != owner:
            raise ValueError(
                f"{place}: run {run!r} has arm and seed {owner}, but {first_owner} at {first};"
                " give every run its own name"
            )
        steps[run, step] = place
        if row["final"]:
            finals[run] = place


def _column(name: str, rows: list[dict], places: list[str]) -> np.ndarray:
    values = [row.get(name) for row in rows]
    kind = REQUIRED.get(name, ("", ""))[0]
    if kind == "text":
        return np.array(values, str)
    if kind in ("integer", "boolean"):
        return np.array(values, np.int64 if kind == "integer" else bool)
    number = [isinstance(v, _NUMBER) and not isinstance(v, bool) for v in values]
    if any(number):
        for value, is_number, place in zip(values, number, places, strict=True):
            if value is not None and not is_number:
                raise ValueError(f"{place}: {name!r} is a number on other lines, here {value!r}")
        return np.array([math.nan if v is None else v for v in values], np.float64)
    if kind or (all(v is None for v in values) and not name.startswith("hyperparameters/")):
        return np.full(len(values), math.nan)  # measured nowhere
    return np.array(values, object)
