"""A fine-tuning run: load, learn, measure, save; stopped and resumed at will, on any mesh."""

import json
from pathlib import Path
from typing import Any

from experiments.finetuning.settings import OPERATIONAL, check, load_base, make_study, world_of
from rlrazor.runtime.distributed import Job, is_writer
from rlrazor.runtime.workdir import open_workdir
from rlrazor.studies.drive import drive

SHOWN = (
    "new/accuracy", "new/base_accuracy", "prior/accuracy", "prior/base_accuracy",
    "new/kl_base_policy_nats", "prior/kl_base_policy_nats", "new/answer_truncated",
)  # fmt: skip


def run_finetuning(config: Any, workdir: str, job: Job) -> None:
    """Runs or resumes; results.jsonl, TensorBoard and the models lie in the folder."""
    check(config)
    if config.dry_run:
        from experiments.planning.dry_run import dry_run

        dry_run(config)
        return
    with open_workdir(workdir, config.to_dict(), ignore=OPERATIONAL) as folder:
        base = load_base(config)
        study = make_study(config, base, world_of(config, base))
        drive(
            study,
            folder,
            job=job,
            checkpoint_every_seconds=config.checkpoint_every_seconds,
            tensorboard=config.tensorboard,
            log_every=config.log_every,
            profile=config.profile,
            opened=True,
        )
        if is_writer():
            print(summary(folder))


def summary(folder: Path) -> str:
    """What came out, and where it lies."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    said = []
    for line in lines:
        if line["final"]:
            found = [f"{name} {line[name]:.3g}" for name in SHOWN if line.get(name) is not None]
            said.append(f"{line['run']}: {', '.join(found) or 'nothing was measured'}")
    said.append(f"\n{folder.resolve() / 'results.jsonl'}")
    said.append(f"python experiments/report.py --results={folder / 'results.jsonl'}")
    return "\n".join(said)
