"""Trains a released language model by any methods, on a TPU slice, a GPU node or a CPU.

    python experiments/finetune.py --config=configs/finetune.py:grpo --config.model=DIR_OR_ID
        --config.data.path=train.jsonl --config.data.test_path=test.jsonl --workdir=DIR

Interrupted at any moment, the same command resumes, on as many devices as there then are. On
several hosts, give it on every one of them: docs/tpu_vm.md and docs/gpu_node.md. What a step needs
and takes, and whether it fits, says experiments/plan.py before anything is rented.
"""

import os
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli, hosts

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "finetune.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run", required=True)


def main(argv: Any) -> None:
    # transformers is here for its tokenizers, and need not say that it misses PyTorch.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    from experiments.finetuning.run import run_finetuning

    with hosts.start() as job:
        run_finetuning(CONFIG.value, WORKDIR.value, job)


if __name__ == "__main__":
    cli.run(main)
