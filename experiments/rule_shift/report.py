"""From a config and a folder to results and their report."""

import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def run_and_report(config: Any, workdir: str) -> None:
    """Runs or resumes the study, writes report.html and prints the answer."""
    started = time.monotonic()
    from rlrazor.runtime.mesh import prepare_host

    prepare_host()  # before anything computes

    from experiments.general_points.base import load_base
    from experiments.report import build
    from experiments.rule_shift.study import OPERATIONAL, run_study
    from rlrazor.runtime.workdir import open_workdir

    with open_workdir(workdir, config.to_dict(), ignore=OPERATIONAL) as folder:
        run_study(config, folder, load_base(Path(ROOT, config.base)))
        answer, page = build([folder / "results.jsonl"], folder, title=config.title)
    print(answer)
    print(f"\n{Path(page).resolve()}   ({time.monotonic() - started:.0f} s)")
