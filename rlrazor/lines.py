"""What a line of results.jsonl says, one a run and checkpoint: schema 2, for writers and readers.

`check_line` is the whole contract. A number that is not finite is null. Names with a slash are
measurements, `<place>/<what>`:

| place | what is tested |
|---|---|
| new | the task of training |
| shift/<name> | the same task in a form that training never showed: "rule", "visual", any name |
| prior, prior/<suite> | what the base could do before |
| train | means over the training steps since the last line |
| outcomes/<place> | a text: which questions of that place were answered rightly, `pack_outcomes` |

`<place>/accuracy` and `<place>/base_accuracy` are fractions of one, the latter of the base on the
same questions. `new/kl_base_policy_nats` is KL(base || policy), a mean over test inputs.
"""

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

SCHEMA = 2
Family = Literal["reward", "outside", "near"]
FAMILIES: tuple[Family, ...] = get_args(Family)
FAMILY_MEANINGS: Mapping[Family, str] = {
    "reward": "learns from a reward",
    "outside": "imitates answers not its own",
    "near": "imitates answers of its own or of a policy near to it",
}
MAIN = "main"  # the variant that is the method itself
# Variants with a chapter or a claim of their own; `turns_<n>` trains with n turns an episode.
DIVERSE, TERSE, REVERSE, RELEASED, TURNS = "diverse", "terse", "reverse", "released", "turns_"

# A method's parts in comparisons, any number of them in one text, by spaces. A line that does not
# say has the part "plain", unless its family is "near".
ROLES: Mapping[str, str] = {
    "plain": "stands for its family where RL is compared with SFT; not so a method with an anchor",
    "one_sided": "learns from right answers alone, in the two by two of on-policy data",
    "two_sided": "learns from right and wrong answers, in that two by two",
    "unnormalised": "does not divide advantages by their standard deviation, in that comparison",
    "normalised": "divides advantages by their standard deviation, and is otherwise the same",
    "kl_minimal": "imitates samples of the right distribution that is nearest to the base",
    "kl_minimal_soft": "imitates that distribution itself",
}

NEW, PRIOR, OUTCOMES = "new", "prior", "outcomes"
KL = "new/kl_base_policy_nats"
# Column -> (kind, meaning).
REQUIRED: Mapping[str, tuple[str, str]] = {
    "study": ("text", "name of the study; papers.py knows some"),
    "run": ("text", "unique name of the run"),
    "arm": ("text", "what is compared: a method in a variant, one name each"),
    "method": ("text", "the method, whatever its variant"),
    "variant": ("text", f"{MAIN!r}, or what is changed about the method"),
    "family": ("family", "what the method learns from"),
    "label": ("text", "the arm's name for readers"),
    "seed": ("integer", "seed of the run and of its base: the independent unit of every interval"),
    "step": ("integer", "optimizer steps or iterations at this checkpoint"),
    "updates": ("integer", "updates of the parameters so far"),
    "final": ("boolean", "whether this is the run's last checkpoint"),
    "diverged": ("boolean", "whether a loss or weight is not finite"),
    "flops": ("number", "training FLOPs of this run so far, its sampling included"),
    "flops_teacher": ("number", "FLOPs that trained its teacher and its start; 0 without"),
}
OPTIONAL: Mapping[str, tuple[str, str]] = {
    "base": ("name", "the model that the run starts from, where several stand in one file"),
    "roles": ("roles", "the method's parts in comparisons"),
}
# What analyses look for; a line may leave any out.
MEASURED: Mapping[str, tuple[str, str]] = {
    "new/accuracy": ("fraction", "test accuracy on the new task"),
    "new/base_accuracy": ("fraction", "the same before fine-tuning"),
    "prior/accuracy": ("fraction", "mean test accuracy over the prior tasks"),
    "prior/base_accuracy": ("fraction", "the same before fine-tuning"),
    KL: ("number", "KL(base||policy), mean over new-task test inputs"),
}
ALLOWED: Mapping[str, str] = {
    "text": "a text that is not empty",
    "name": 'a text, "" if there is but one',
    "integer": "an integer from 0",
    "boolean": "true or false",
    "number": "a finite number or null",
    "fraction": "a number from 0 to 1, or null",
    "family": " or ".join(f"{name!r} ({what})" for name, what in FAMILY_MEANINGS.items()),
    "roles": f"none or some of {', '.join(ROLES)}, by spaces",
}


def pack_outcomes(correct: np.ndarray) -> str:  # bool[n]
    """Which questions were answered rightly, as a line has it: "<n>:<base64 of packed bits>"."""
    correct = np.asarray(correct, bool)
    return f"{len(correct)}:{base64.b64encode(np.packbits(correct).tobytes()).decode()}"


def unpack_outcomes(text: str) -> np.ndarray:  # bool[n]
    """What `pack_outcomes` packed; ValueError for another text."""
    count, colon, packed = text.partition(":")
    try:
        if not colon or not count.isdecimal():
            raise ValueError("no count of questions before a colon")
        bits = np.unpackbits(np.frombuffer(base64.b64decode(packed, validate=True), np.uint8))
        n = int(count)
        if len(bits) != -(-n // 8) * 8:
            raise ValueError(f"{len(bits)} bits of {n} questions")
    except (ValueError, binascii.Error) as error:
        raise ValueError(
            f"outcomes must be '<count>:<base64 of packed bits>', got {text[:40]!r} ({error})"
        ) from error
    return bits[:n].astype(bool)


def shift(name: str) -> str:
    """The place of a named shift: "rule" -> "shift/rule"."""
    return f"shift/{name}"


def check_line(line: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the field, what it holds and what is allowed there."""
    if line.get("schema") != SCHEMA:
        raise ValueError(f"'schema' must be {SCHEMA}, got {line.get('schema')!r}")
    for name, (kind, meaning) in REQUIRED.items():
        if name not in line:
            raise ValueError(f"no field {name!r} ({meaning}); it must be {ALLOWED[kind]}")
    hyperparameters = line.get("hyperparameters", {})
    if not isinstance(hyperparameters, Mapping):
        raise ValueError(f"'hyperparameters' must be an object, got {hyperparameters!r}")
    for name, value in line.items():
        if name not in ("schema", "hyperparameters"):
            check_field(name, value)
    for name, value in hyperparameters.items():
        check_field(f"hyperparameters/{name}", value)


def check_field(name: str, value: object) -> None:
    """One field by itself; names that are not in the tables above hold a number or a text."""
    kind, meaning = kind_of(name)
    if kind == "unknown place":
        raise ValueError(
            f"unknown field {name!r}: the untrained form of a task is 'shift/<name>/<what>', as in "
            "'shift/rule/accuracy'"
        )
    if name.startswith(f"{OUTCOMES}/"):
        if not isinstance(value, str):
            raise ValueError(f"{name!r} must be a text of `pack_outcomes`, got {value!r}")
        unpack_outcomes(value)
    if kind and not _is_kind(value, kind):
        raise ValueError(f"{name!r} must be {ALLOWED[kind]} ({meaning}), got {value!r}")
    if not (value is None or isinstance(value, str | int | float)):
        raise ValueError(f"{name!r} must be a number, true, false, a text or null, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name!r} must be finite or null, got {value!r}")


def kind_of(name: str) -> tuple[str, str]:
    """(kind, meaning) of a field; ("", "") where any number or text may stand."""
    for table in (REQUIRED, OPTIONAL, MEASURED):
        if name in table:
            return table[name]
    place, _, what = name.rpartition("/")
    if place in ("ood", "shift"):
        return "unknown place", ""
    if place.startswith(("shift/", "prior/")) and what in ("accuracy", "base_accuracy"):
        return "fraction", f"test accuracy{' of the base' * (what != 'accuracy')}"
    return "", ""


def _is_kind(value: object, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("text", "name"):
        return isinstance(value, str) and (kind == "name" or value != "")
    if kind == "family":
        return value in FAMILIES
    if kind == "roles":
        return isinstance(value, str) and set(value.split()) <= set(ROLES)
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int) and value >= 0
    if value is None:
        return True
    if not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return kind == "number" or 0 <= value <= 1
