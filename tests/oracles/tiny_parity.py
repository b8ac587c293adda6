"""The parity study, as small as it still has every part: 36 runs in blocks of six, in seconds.

A config file like those in configs/: `--config=tests/oracles/tiny_parity.py`. Six bases and six
runs a block, so that teachers and students go through one compiled program.
"""

from ml_collections import ConfigDict

from configs import razor_digits


def get_config(mode: str = "full") -> ConfigDict:
    config = razor_digits.get_config(mode)
    config.model.widths = (8,)
    config.base.examples_per_task = 64
    config.base.epochs = 2
    config.base.batch_size = 32
    config.arms = ("sft1", "grpo", "distilled")
    config.advantage_norm = ("none",)
    config.strength.arms = ()
    config.sweep.learning_rates.low = config.sweep.learning_rates.high = 1e-2
    config.sweep.learning_rates.count = 1
    config.sweep.schedules = ("cosine",)
    config.sweep.epochs = (1, 2)
    config.sweep.seeds = 6
    config.teacher.learning_rate = 1e-2
    config.teacher.epochs = 1
    config.warmup_steps = 4
    config.checkpoints_per_epoch = 2
    config.test_examples = 40
    config.fisher_examples = 16
    config.activation_examples = 30
    config.measure.neighbours = 5
    config.trajectory.arms = ("sft1", "grpo")
    config.trajectory.steps = 4
    config.trajectory.examples = 16
    config.runs_per_block = 6
    config.mesh.data = 1  # so that tests do not depend on the number of cores
    config.checkpoint_every_seconds = 0.0
    return config
