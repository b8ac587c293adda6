"""Both axes in a few minutes on a CPU: what the quickstart runs, one study after the other.

Command:  python experiments/quickstart.py [--config=configs/quickstart.py:quick]
Modes:    `:full`   digits: every arm, 5 learning rates, 5 seeds; points: SFT at two rates
                    and GRPO, 3 seeds
          `:quick`  the same code on fewer runs; what CI runs
Expected: at most eight minutes on two CPU cores
"""

from typing import Any

from ml_collections import ConfigDict

from configs import razor_digits, sft_memorizes_gp_l


def get_config(mode: str = "full") -> ConfigDict:
    if mode not in ("full", "quick"):
        raise ValueError(f"mode={mode!r} must be full or quick")
    config: Any = ConfigDict()
    config.title = "Does RL generalize, and does it forget less?"
    config.digits = razor_digits.get_config(mode)
    config.points = sft_memorizes_gp_l.get_config("quick")
    if mode == "quick":
        config.points.seeds = (0, 1)
        config.points.iterations = 4
        config.points.rows = 128
        measure: Any = config.points.measure
        measure.hands = 256
        measure.questions = 16
        measure.kl_prompts = 32
    return config
