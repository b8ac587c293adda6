"""RL's Razor on ParityMNIST: the sweep, its measurements, and the report.

    python experiments/razor_parity.py --config=configs/razor_parity.py --workdir=DIR

Interrupted at any moment, the same command resumes. `--config.x=y` overrides a value of the
config, which says what each one means. The data come from experiments/prepare_data.py.
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "razor_parity.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run", required=True)


def main(argv: Any) -> None:
    from experiments.parity.run import run
    from experiments.running import run_and_report

    config = CONFIG.value
    run_and_report({"": (run, config)}, WORKDIR.value, title=config.title)


if __name__ == "__main__":
    cli.run(main)
