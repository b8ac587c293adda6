"""The null study, from a config and a folder."""

import copy
from pathlib import Path
from typing import Any


def run(config: Any, workdir: str | Path) -> str:
    """Runs or resumes the study; returns its tables as Markdown."""
    from experiments.null import figure, table
    from experiments.null.study import Directions, Kept
    from experiments.parity.data import load_parity_data
    from experiments.parity.study import OPERATIONAL, ParityStudy
    from rlrazor.analysis.results import load_results
    from rlrazor.runtime.distributed import alone
    from rlrazor.runtime.workdir import open_workdir, write_whole
    from rlrazor.studies.drive import drive

    check(config)
    parity = config.parity
    data = load_parity_data(parity.dataset, parity.data_dir or None)
    record = config.to_dict()
    record["parity"] = {n: v for n, v in record["parity"].items() if n not in OPERATIONAL}
    with alone() as job, open_workdir(workdir, record) as folder:

        def driven(study: Any, name: str) -> Path:
            part = folder / name
            part.mkdir(exist_ok=True)
            drive(study, part, job=job, checkpoint_every_seconds=parity.checkpoint_every_seconds,
                  tensorboard=parity.tensorboard, opened=True)  # fmt: skip
            return part / "results.jsonl"

        free = copy.deepcopy(parity)
        free.arms = tuple(arm for arm in parity.arms if arm not in config.anchored)
        trained = Kept(free, data)
        files = {"": driven(trained, "trained")}
        for coefficient in config.anchors:
            held = copy.deepcopy(parity)
            held.arms = tuple(config.anchored)
            held.arm.kl_coefficient = held.arm.anchor_coefficient = coefficient
            files[f"anchor {coefficient:g}"] = driven(
                ParityStudy(held, data), f"anchor-{coefficient:g}"
            )
        directions = driven(Directions(trained, config), "directions")
        whole = table.rows({"": directions}, config.targets) + table.rows(files, config.targets)
        text = "\n\n".join(
            [
                f"Forgetting in points at the same KL(base‖policy) on the new task; {table.UNITS}.",
                table.markdown(whole, config.targets),
                "The second-order prediction, by the whole Fisher matrix, of all directions.",
                table.ratios(table.second_order(load_results(directions))),
            ]
        )
        write_whole(folder / "null.md", text + "\n")
        figure.draw(files, directions).savefig(folder / "null.png", dpi=110)
    return text


def check(config: Any) -> None:
    """ValueError for what would fail after the training."""
    missing = [arm for arm in (*config.lines, *config.anchored) if arm not in config.parity.arms]
    if missing:
        raise ValueError(
            f"config.lines and config.anchored name {missing[0]!r}, and config.parity.arms has "
            f"{', '.join(config.parity.arms)}; add it there"
        )
    held = [arm for arm in config.lines if arm in config.anchored]
    if held:
        raise ValueError(f"config.lines={held[0]!r} is anchored; lines lead to free methods")
    nats = config.nats
    if not (0 < nats.low < nats.high and nats.count > 1 and config.draws > 0):
        raise ValueError(
            f"config.nats={nats.to_dict()} needs 0 < low < high and count > 1, and config.draws="
            f"{config.draws} must be at least 1"
        )
