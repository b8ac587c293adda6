"""From a config and a folder to results and their report."""

import time
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


def run_and_report(config: Any, workdir: str) -> None:
    """Runs or resumes the study, writes report.html and prints the answer."""
    started = time.monotonic()
    from rlrazor.runtime.mesh import prepare_host

    prepare_host()  # before anything computes

    from experiments.report import build

    folder = run(config, workdir)
    answer, page = build([folder / "results.jsonl"], folder, title=config.title)
    print(answer)
    print(f"\n{Path(page).resolve()}   ({time.monotonic() - started:.0f} s)")
