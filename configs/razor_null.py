"""The null curve of the forgetting law: what do policies forget that nobody trained?

Command:  python experiments/razor_null.py --config=configs/razor_null.py --workdir=DIR
Modes:    `:full`  parity of scikit-learn's digits, five bases; ten minutes on two CPU cores
          `:mnist` the same of MNIST and Fashion-MNIST
          `:quick` the same code for a minute; what CI runs
Expected: if KL(base||policy) on the new task is all that counts, one number at each of its values,
          whatever the direction, the method and the learning rate

Directions, from every base: random noise (each matrix by its own size, and every weight alike) and
straight lines to finished policies of SFT and GRPO, out to divergences of .003 to 100 nats by the
second order. Beside them the methods along their training, each learning rate apart, with KL
anchors of three strengths: all read where they first reach the same KL.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import razor_digits, razor_parity


def get_config(mode: str = "full") -> ConfigDict:
    if mode not in ("full", "mnist", "quick"):
        raise ValueError(f"mode={mode!r} must be full, mnist or quick")
    config: Any = ConfigDict()
    parity: Any = razor_parity.get_config("cpu") if mode == "mnist" else razor_digits.get_config()
    parity.arms = ("sft1", "grpo", "oracle", "self_sft", "sft_kl_base_policy", "grpo_kl")
    parity.advantage_norm = ("none",)
    parity.oracle = ("sampled",)
    parity.strength.base_epochs = ()
    parity.checkpoints_per_epoch = 20 if mode == "mnist" else 4
    parity.sweep.learning_rates.count = 3
    config.parity = parity
    config.anchors = (0.1, 0.5, 2.0)  # coefficients of the KL to the base
    config.anchored = ("sft_kl_base_policy", "grpo_kl")  # the arms that have one
    config.lines = ("sft1", "grpo")
    config.draws = 4  # random directions of a kind and base
    config.nats = ConfigDict({"low": 0.003, "high": 100.0, "count": 24})
    config.targets = (0.1, 0.5, 1.0, 2.0)  # nats at which all are compared
    if mode == "quick":
        parity.arms = ("sft1", "grpo", "sft_kl_base_policy")
        parity.sweep.seeds = 2
        parity.sweep.epochs = (2,)
        parity.sweep.learning_rates.count = 2
        config.anchors = (0.5,)
        config.anchored = ("sft_kl_base_policy",)
        config.draws = 1
        config.nats.count = 6
    return config
