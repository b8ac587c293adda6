"""From configs and a folder to results and their report; shared by the scripts."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Run = Callable[[Any, Path], Path]  # (config, folder) -> the same folder, with results.jsonl in it


def run_and_report(
    studies: Mapping[str, tuple[Run, Any]],  # by name: how to run it, its config
    workdir: str,
    *,
    title: str,
) -> None:
    """Runs or resumes every study, writes one report.html and prints the answer.

    A study lies in the folder of its name below `workdir`; a single one, named "", in `workdir`.
    """
    started = time.monotonic()
    from rlrazor.runtime.mesh import prepare_host

    prepare_host()  # before anything computes

    from experiments.report import build

    folders = {name: run(config, Path(workdir) / name) for name, (run, config) in studies.items()}
    results = {name: [folder / "results.jsonl"] for name, folder in folders.items()}
    answer, page = build(results, Path(workdir), title=title)
    print(answer)
    print(f"\n{Path(page).resolve()}   ({time.monotonic() - started:.0f} s)")
