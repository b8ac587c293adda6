"""The parity study at the size of a coffee break: scikit-learn's digits, no download.

Command:  python experiments/razor_parity.py --config=configs/razor_digits.py --workdir=DIR
          (the quickstart's first half)
Modes:    `:full`  every arm, 5 learning rates, 5 seeds; two or three minutes on two CPU cores
          `:quick` the same code on fewer runs; what CI runs
Expected: R2 of a quadratic in KL(base||policy), all methods pooled, between .8 and 1
"""

from typing import Any

from ml_collections import ConfigDict

from configs import razor_parity


def get_config(mode: str = "full") -> ConfigDict:
    if mode not in ("full", "quick"):
        raise ValueError(f"mode={mode!r} must be full or quick")
    config: Any = razor_parity.get_config()
    config.title = "Does RL forget less? Parity of handwritten digits"
    config.dataset = "digits"  # new: parity of 8x8 digits; prior: the same, pixels permuted
    config.model.widths = (128, 64)
    # 1,297 images train: weak bases need few of them, and more epochs than MNIST's 60,000 would.
    config.base.examples_per_task = 300
    config.base.epochs = 40  # parity about .9, permuted digits about .9
    config.strength.base_epochs = (15,)
    config.strength.arms = ("sft1", "sft2", "grpo")
    config.sweep.learning_rates.low = 3e-5
    config.sweep.learning_rates.high = 3e-3
    config.sweep.learning_rates.count = 5
    config.sweep.schedules = ("constant",)
    config.sweep.epochs = (8,)
    config.teacher.learning_rate = 1e-3
    config.teacher.epochs = 8
    config.batch_size = 32
    config.warmup_steps = 20
    config.checkpoints_per_epoch = 1
    config.test_examples = 500
    config.fisher_examples = 300
    config.activation_examples = 300
    config.trajectory.learning_rate = 1e-3
    config.trajectory.examples = 300
    if mode == "quick":
        config.arms = ("sft1", "sft2", "oracle", "grpo", "reinforce", "distilled")
        config.sweep.learning_rates.count = 3
        config.sweep.seeds = 2
        config.sweep.epochs = (3,)
        config.teacher.epochs = 3
        config.trajectory.steps = 20
    return config
