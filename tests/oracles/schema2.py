"""Lines of the first schema as a writer of schema 2 would have written them."""

import json
from collections.abc import Mapping
from pathlib import Path

from rlrazor.analysis.legacy import known
from rlrazor.lines import MAIN


def rewritten(
    lines: list[dict],
    *,
    names: Mapping[str, str] | None = None,  # method -> its new name
    study: str = "",  # "" keeps the study that older lines are taken for
    shifts: tuple[str, ...] = ("rule",),  # names of the one shift that the lines have
    roles: bool = False,  # whether a line says its roles itself
    drop: tuple[str, ...] = (),  # beginnings of fields to leave out
) -> list[dict]:
    return [_line(line, names or {}, study, shifts, roles, drop) for line in lines]


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _line(line, names, study, shifts, roles, drop) -> dict:
    nested = line.get("hyperparameters", {})
    method = nested.get("method", line["arm"])
    ending = line["arm"].removeprefix(method)
    what = known(line["arm"])
    assert what is not None
    out = {
        "schema": 2,
        "study": study or ("sft_memorizes_gp_l" if "ood/accuracy" in line else "razor_parity"),
        "method": names.get(method, method),
        "variant": nested.get("variant", MAIN),
        "family": what.family,
        "label": what.label,
        "updates": line["step"],
        "diverged": False,
        "flops_teacher": 0.0,
    }
    if roles:
        out["roles"] = what.roles
    for name, value in line.items():
        for new in [name.replace("ood/", f"shift/{s}/") for s in shifts] if shifts else [name]:
            if not (name.startswith("ood/") and not shifts):
                out[new] = value
    out["arm"] = names.get(method, method) + ending
    out["run"] = line["run"].replace(line["arm"], out["arm"], 1)
    out["hyperparameters"] = {k: v for k, v in nested.items() if k not in ("method", "variant")}
    return {name: value for name, value in out.items() if not name.startswith(drop or ("\0",))}
