"""Does RL generalize, and does it forget less? Both answers in a few minutes on a CPU.

    python experiments/quickstart.py [--config=configs/quickstart.py:quick] [--workdir=DIR]

Two studies, nothing downloaded, one report. Digits: parity of scikit-learn's handwritten digits,
with the same digits under a fixed permutation of pixels as the prior task (in full:
experiments/razor_parity.py). Points: GeneralPoints from the small base model that is shipped,
tested on a rule that training never showed and on eight prior tasks (gp_rule_shift.py).
"""

import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "quickstart.py")
WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "folder of this run")


def main(argv: Any) -> None:
    started = time.monotonic()
    from rlrazor.runtime.mesh import prepare_host

    prepare_host()  # before anything computes

    from experiments.parity import report as digits
    from experiments.report import build
    from experiments.rule_shift import report as points

    config, workdir = CONFIG.value, Path(WORKDIR.value)
    studies = {
        "digits": digits.run(config.digits, workdir / "digits"),
        "points": points.run(config.points, workdir / "points"),
    }
    answer, page = build(
        {name: [folder / "results.jsonl"] for name, folder in studies.items()},
        workdir,
        title=config.title,
    )
    print(answer)
    print(f"\n{Path(page).resolve()}   ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    cli.run(main)
