"""Does RL generalize, and does it forget less? Both answers in a few minutes on a CPU.

    python experiments/quickstart.py [--config=configs/quickstart.py:quick] [--workdir=DIR]

Two studies, nothing downloaded, one report. Digits: parity of scikit-learn's handwritten digits,
with the same digits under a fixed permutation of pixels as the prior task (in full:
experiments/razor_parity.py). Points: GeneralPoints from the small base model that is shipped,
tested on a rule that training never showed and on eight prior tasks (gp_rule_shift.py).
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "quickstart.py")
WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "folder of this run")


def main(argv: Any) -> None:
    from experiments.parity.run import run as run_digits
    from experiments.rule_shift.run import run as run_points
    from experiments.running import run_and_report

    config = CONFIG.value
    studies = {"digits": (run_digits, config.digits), "points": (run_points, config.points)}
    run_and_report(studies, WORKDIR.value, title=config.title)


if __name__ == "__main__":
    cli.run(main)
