"""A fine-tuning run: load, learn, measure, save; stopped and resumed at will, on any mesh."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.finetuning.settings import (
    OPERATIONAL,
    check,
    check_files,
    load_base,
    make_study,
    world_of,
)
from rlrazor.api.model import Pretrained
from rlrazor.runtime.distributed import Job, is_writer
from rlrazor.runtime.workdir import open_workdir
from rlrazor.studies.drive import drive
from rlrazor.studies.study import Columns
from rlrazor.studies.world import Measurement, World
from rlrazor.types import Params

SHOWN = (
    "new/accuracy", "prior/accuracy", "new/kl_base_policy_nats", "prior/kl_base_policy_nats",
    "new/answer_truncated",
)  # fmt: skip


def run_finetuning(config: Any, workdir: str, job: Job) -> None:
    """Runs or resumes; results.jsonl, TensorBoard and the models lie in the folder."""
    check(config)
    if config.dry_run:
        from experiments.planning.dry_run import dry_run

        dry_run(config)
        return
    check_files(config)
    with open_workdir(workdir, config.to_dict(), ignore=OPERATIONAL) as folder:
        base = load_base(config)
        study = make_study(config, base, watched(world_of(config, base), base))
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


def watched(world: World, base: Pretrained) -> World:
    """The world, which says at once where the base comes to no answer: none is ever right there."""
    said: set[str] = set()

    def watch(measurement: Measurement) -> Measurement:
        def of(params: Params, of_base: Params, kept: Any, key: jax.Array) -> Columns:
            columns = measurement.of(params, of_base, kept, key)
            if params is base.params and is_writer():
                for place in endless(columns):
                    if place not in said:  # by another seed
                        print(remark(place), file=sys.stderr)
                    said.add(place)
            return columns

        return dataclasses.replace(measurement, of=of)

    return dataclasses.replace(world, measurements=[watch(m) for m in world.measurements])


def endless(columns: Mapping[str, float]) -> list[str]:
    """Places of which every answer was truncated."""
    ending = "/answer_truncated"
    return [
        name.removesuffix(ending) for name, x in columns.items() if name.endswith(ending) and x == 1
    ]


def remark(place: str) -> str:
    return (
        f"{place}: the base ended none of its answers within config.answer_tokens, so none is "
        "right, nor would be rewarded; give it more, or look whether the chat template is the "
        "model's own"
    )


def summary(folder: Path) -> str:
    """What came out, before and after, and where it lies."""
    results = folder / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().split("\n") if line]
    said = []
    for line in lines:
        if line["final"]:
            found = [shown(line, name) for name in SHOWN if line.get(name) is not None]
            ill = ["diverged"] if line["diverged"] else []
            said.append(f"{line['run']}: {', '.join([*ill, *found]) or 'nothing was measured'}")
    said.append(f"\n{results.resolve()}")
    said.append(f"python experiments/report.py --results={results} --out={folder}")
    return "\n".join(said)


def shown(line: Mapping[str, Any], name: str) -> str:
    """A number, and the base's before it."""
    place, _, what = name.rpartition("/")
    before = line.get(f"{place}/base_{what}")
    return f"{name} {'' if before is None else f'{before:.3g} -> '}{line[name]:.3g}"
