"""GeneralPoints in text, SFT against RL on a rule that training never showed: both axes.

    python experiments/gp_rule_shift.py --config=configs/sft_memorizes_gp_l.py:cpu --workdir=DIR

Interrupted at any moment, the same command resumes. `--config.x=y` overrides a value of the
config, which says what each one means. Runs of several folders, such as one a seed, are put
together by experiments/report.py.
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "sft_memorizes_gp_l.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run", required=True)


def main(argv: Any) -> None:
    from experiments.rule_shift.run import run
    from experiments.running import run_and_report

    config = CONFIG.value
    run_and_report({"": (run, config)}, WORKDIR.value, title=config.title)


if __name__ == "__main__":
    cli.run(main)
