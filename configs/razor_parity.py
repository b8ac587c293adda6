"""ParityMNIST of RL's Razor (arXiv 2509.04259): Figure 3, Table 1, Appendix B.3.

Command:  python experiments/razor_parity.py --config=configs/razor_parity.py --workdir=DIR
Modes:    `:full`   the paper's sweep, 5 seeds
          `:cpu`    6 learning rates over the same range, constant, 1 epoch, 2,000 test images
          `:quick`  two minutes of the same code on a few images; what CI runs
Expected: R2 of a quadratic in KL(base||policy), all methods pooled: paper .96
"""

from typing import Any

from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """What the paper states is marked so; every other value is a choice, argued beside it."""
    config: Any = ConfigDict()
    config.title = "RL's Razor on ParityMNIST"
    config.dataset = "mnist"  # MNIST and Fashion-MNIST; "digits" needs no download
    config.data_dir = ""  # empty: TFDS_DATA_DIR, else ~/tensorflow_datasets

    config.model = ConfigDict({"widths": (512, 256)})  # paper
    config.base = ConfigDict(
        {
            "examples_per_task": 500,  # paper
            # The paper gives neither optimiser nor epochs. AdamW at 1e-3, batch 64, a tenth of
            # warm-up and a cosine are the public replication's; its 5 epochs gave parity .86 and
            # Fashion .75, around the paper's .88 and .69 (read off Figure 3).
            "epochs": 5,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "warmup_fraction": 0.1,
        }
    )
    # The strength of the base is not stated either, so a few arms also start from a weaker and a
    # stronger one: does the verdict survive?
    config.strength = ConfigDict({"base_epochs": (2, 20), "arms": ("sft1", "sft2", "grpo")})

    config.arms = (
        # the paper's five
        "sft1", "sft2", "oracle", "grpo", "grpo_kl",
        # its language-model arms and Figure 9
        "reinforce", "simpo", "distilled",
        # the follow-ups that disagree
        "self_sft", "iterative_sft", "dft", "sft_kl_base_policy", "sft_kl_policy_base",
    )  # fmt: skip
    # GRPO divides by the group's standard deviation in its first paper and in the replication,
    # not in the Dr. GRPO loss that RL's Razor uses for language. Both run: grpo and grpo_std.
    config.advantage_norm = ("none", "std")
    # The paper samples labels from the oracle; the replication uses its probabilities: both.
    config.oracle = ("sampled", "soft")
    config.arm = ConfigDict(
        {
            "group_size": 8,  # answers a prompt; not stated, the replication's
            "kl_coefficient": 0.1,  # paper, for GRPO + KL; exact KL(policy||base) over the classes
            "anchor_coefficient": 0.5,  # of SFT + KL; the strongest anchor tried in 2510.00237
            "std_epsilon": 1e-4,  # keeps groups of almost equal rewards from exploding
        }
    )
    config.self_sft_tries = 16  # samples of the base a prompt; the paper's limit for its SFT data
    # A teacher that has converged without leaving the range of the RL arm's own sweep.
    config.teacher = ConfigDict({"arm": "grpo", "learning_rate": 1e-4, "epochs": 1})

    config.sweep = ConfigDict(
        {
            "learning_rates": ConfigDict({"low": 3e-6, "high": 1e-3, "count": 15}),  # paper
            "schedules": ("constant", "cosine"),  # paper
            "epochs": (1, 2),  # paper
            "seeds": 5,  # the paper shows one; a seed draws its own base too
        }
    )
    config.batch_size = 64  # not stated; the replication's
    # "With warm-up", length not stated: 50 steps as in the paper's language runs. A count rather
    # than a share, so that one epoch at a constant rate is the first half of two.
    config.warmup_steps = 50
    config.optimizer = ConfigDict(
        {
            "weight_decay": 0.01,  # not stated; the replication's
            "clip_by_global_norm": 1.0,  # not stated here; 1 in the paper's language runs
        }
    )

    config.checkpoints_per_epoch = 4
    config.test_examples = 10_000  # of each task: the whole test sets
    config.fisher_examples = 1_000
    config.activation_examples = 1_000
    config.measure = ConfigDict(
        {
            "neighbours": 10,  # of CKNNA, as in the Platonic Representation Hypothesis
            "sparsity_threshold": 1e-3,  # relative to the weight, as in 2511.08567
        }
    )
    config.trajectory = ConfigDict(
        {
            "arms": ("sft1", "sft2", "oracle", "grpo"),
            "learning_rate": 1e-4,
            "steps": 300,
            "examples": 1_000,
        }
    )

    config.on_divergence = "stop"  # or "mark": record the run as diverged and go on
    config.runs_per_block = 64  # runs side by side in one program; bounds memory
    config.mesh = ConfigDict({"data": 0, "fsdp": 1, "tensor": 1})  # 0: every device
    config.checkpoint_every_seconds = 120.0
    config.tensorboard = True

    if mode == "cpu":
        config.sweep.learning_rates = ConfigDict({"low": 3e-6, "high": 1e-3, "count": 6})
        config.sweep.schedules = ("constant",)
        config.sweep.epochs = (1,)
        config.test_examples = 2_000
    elif mode == "quick":
        config.arms = ("sft1", "sft2", "oracle", "grpo", "distilled")
        config.strength.base_epochs = ()
        config.sweep.learning_rates = ConfigDict({"low": 3e-5, "high": 1e-3, "count": 3})
        config.sweep.schedules = ("constant",)
        config.sweep.epochs = (1,)
        config.sweep.seeds = 2
        config.checkpoints_per_epoch = 2
        config.test_examples = 500
        config.fisher_examples = 100
        config.activation_examples = 100
        config.trajectory.steps = 5
        config.trajectory.examples = 100
    elif mode != "full":
        raise ValueError(f"mode={mode!r} must be full, cpu or quick")
    return config
