"""Does RL forget less? The answer on real handwritten digits in a few minutes on a CPU.

    python experiments/quickstart.py [--config=configs/quickstart.py:quick] [--workdir=DIR]

The new task is the parity of scikit-learn's digits, the prior task the same digits under a fixed
pixel permutation, 10-way: nothing is downloaded. The full study is experiments/razor_parity.py.
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "quickstart.py")
WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "folder of this run")


def main(argv: Any) -> None:
    from experiments.parity.report import run_and_report

    run_and_report(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    cli.run(main)
