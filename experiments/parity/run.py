"""The parity study, from a config and a folder."""

from pathlib import Path
from typing import Any


def run(config: Any, workdir: str | Path) -> Path:
    """Runs or resumes the study; returns its folder, which holds results.jsonl and the rest."""
    from experiments.parity.data import load_parity_data
    from experiments.parity.study import OPERATIONAL, ParityStudy
    from rlrazor.runtime.distributed import alone
    from rlrazor.runtime.workdir import open_workdir
    from rlrazor.studies.drive import drive

    with (
        alone() as job,
        open_workdir(workdir, config.to_dict(), ignore=OPERATIONAL) as folder,
    ):
        study = ParityStudy(config, load_parity_data(config.dataset, config.data_dir or None))
        drive(
            study,
            folder,
            job=job,
            checkpoint_every_seconds=config.checkpoint_every_seconds,
            tensorboard=config.tensorboard,
            opened=True,
        )
        study.record_trajectories(folder / "trajectory.jsonl")
    return folder
