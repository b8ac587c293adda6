"""The rule-shift study, from a config and a folder."""

from pathlib import Path
from typing import Any


def run(config: Any, workdir: str | Path) -> Path:
    """Runs or resumes the study; returns its folder, which holds results.jsonl and the rest."""
    from experiments.rule_shift.base import load_spoken
    from experiments.rule_shift.study import OPERATIONAL, make_study
    from rlrazor.runtime.distributed import alone
    from rlrazor.runtime.workdir import open_workdir
    from rlrazor.studies.drive import drive

    study = make_study(config, load_spoken(config))
    with (
        alone() as job,
        open_workdir(workdir, config.to_dict(), ignore=OPERATIONAL) as folder,
    ):
        return drive(
            study,
            folder,
            job=job,
            checkpoint_every_seconds=config.checkpoint_every_seconds,
            tensorboard=config.tensorboard,
            opened=True,
        )
