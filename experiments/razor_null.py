"""What policies forget that nobody trained, beside those that somebody did.

    python experiments/razor_null.py --config=configs/razor_null.py --workdir=DIR

Trains the methods of the config, walks from each base along random directions and straight lines,
and compares all at the same KL from the base: null.md and null.png in DIR, and each part's
results.jsonl below it. Interrupted at any moment, the same command resumes.
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "razor_null.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run", required=True)


def main(argv: Any) -> None:
    del argv
    from rlrazor.runtime.mesh import prepare_host

    prepare_host()  # before anything computes

    from experiments.null.run import run

    print(run(CONFIG.value, WORKDIR.value))


if __name__ == "__main__":
    cli.run(main)
