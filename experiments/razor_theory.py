"""Is policy gradient with a binary reward a projection onto the KL-closest optimal policy?

    python experiments/razor_theory.py --config=configs/razor_theory.py[:quick] --workdir=DIR

Prints a table of claims; writes theory.jsonl, its config and three figures (PNG, SVG) to the
workdir. Everything is enumerated in float64; experiments/theory/ holds one part a file.
"""

import pathlib
import time
from typing import Any

import jax
from absl import flags

from experiments import cli
from experiments.theory import curved, figures, log_linear, random_families, tabular
from experiments.theory.records import json_line, table

ROOT = pathlib.Path(__file__).resolve().parent.parent
_CONFIG = cli.config_flag(ROOT / "configs" / "razor_theory.py")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for theory.jsonl and the figures.", required=True
)


def measure(config: Any) -> list[dict]:
    """All records of the three parts; float64 inside, whatever the caller's precision."""
    with jax.enable_x64(True):
        return [
            *tabular.run(config.tabular, config.failures, config.seed),
            *log_linear.run(config.log_linear),
            *random_families.run(config.log_linear, config.seed),
            *curved.run(config.curved, config.seed),
        ]


def main(argv: list[str]) -> None:
    config, started = _CONFIG.value, time.perf_counter()
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)  # before the work: an unwritable folder fails now
    records = measure(config)
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=1) + "\n")
    lines = [json_line(record) for record in records]
    (workdir / "theory.jsonl").write_text("\n".join(lines) + "\n")
    drawn = figures.draw(figures.load(workdir / "theory.jsonl"), workdir)
    print(table(records))
    print(f"{len(records)} records in {workdir / 'theory.jsonl'}, figures {', '.join(drawn)}")
    print(f"{time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    cli.run(main)
