"""The rule-shift study, from a config and a folder."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def run(config: Any, workdir: str | Path) -> Path:
    """Runs or resumes the study; returns its folder, which holds results.jsonl and the rest."""
    from experiments.general_points.base import load_base
    from experiments.rule_shift.study import OPERATIONAL, run_study
    from rlrazor.runtime.workdir import open_workdir

    base = load_base(ROOT / config.base)
    with open_workdir(workdir, config.to_dict(), ignore=OPERATIONAL) as folder:
        run_study(config, folder, base)
    return folder
