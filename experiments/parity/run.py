"""The parity study, from a config and a folder."""

from pathlib import Path
from typing import Any


def run(config: Any, workdir: str | Path) -> Path:
    """Runs or resumes the study; returns its folder, which holds results.jsonl and the rest."""
    from experiments.parity.data import load_parity_data
    from experiments.parity.study import OPERATIONAL, run_study
    from rlrazor.runtime.workdir import open_workdir

    with open_workdir(workdir, config.to_dict(), ignore=OPERATIONAL) as folder:
        run_study(config, folder, load_parity_data(config.dataset, config.data_dir or None))
    return folder
