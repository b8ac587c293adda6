"""The small base model of the language studies: weak at GeneralPoints, strong at the prior tasks.

Command:  python experiments/gp_base.py --config=configs/gp_base.py --workdir=DIR
Modes:    `:full`   what is shipped in experiments/bases/gp_small; eleven minutes on two CPU cores
          `:prior`  the prior tasks alone: where RL would begin without SFT, on a task never seen
          `:quick`  the same code for a minute
          `:frontier`  nine, from nine seeds, for configs/gp_frontier.py; seven minutes each
          `:weak`, `:strong`  one that was trained for less, and one for longer
Expected: greedy success between .05 and .20 under each rule of the study, the prior tasks above .85
"""

from typing import Any

from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    if mode not in ("full", "prior", "quick", "frontier", "weak", "strong"):
        raise ValueError(f"mode={mode!r} must be full, prior, quick, frontier, weak or strong")
    config: Any = ConfigDict()
    config.seed = 0
    config.seeds = ()  # of several bases, in DIR/base-<seed>; side by side on an accelerator
    config.rules = 32  # of GeneralPoints, the two of the study among them
    # add, subtract, larger, sort, reverse, count, max, copy: those learnt late are asked more often
    config.prior_weights = (2.0, 2.0, 1.0, 1.0, 0.5, 3.0, 0.5, 0.5)
    config.rows = ConfigDict(
        {
            "points": 1,  # of every rule, answered at once
            "terse": 8,  # rules that also ask for the formula alone
            "revised": 8,  # rules that also show an answer after failures
            "failures": 9,  # at most, so that ten turns are nothing new
            "shown": 8,  # rules that also show an answer given as it was shown before
            "prior": 112,
        }
    )
    config.model = ConfigDict(
        {
            "width": 128,
            "layers": 4,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 32,
            "mlp_width": 352,
            "tied_head": True,
        }
    )
    config.steps = 1800
    config.learning_rate = 2e-3
    config.warmup_steps = 100
    config.weight_decay = 0.01
    config.clip_by_global_norm = 1.0
    config.chunk = 50  # steps between two lines of progress
    config.checkpoint_every_seconds = 120.0
    config.test_examples = 2048  # of each rule and prior task
    config.mesh = ConfigDict({"data": 0, "fsdp": 1, "tensor": 1})
    if mode in ("frontier", "weak", "strong"):
        # One answer a hand is all that the frontier asks for: no dialogues, which are long.
        config.rows.update(terse=0, revised=0, shown=0)
    if mode == "frontier":
        config.seeds = tuple(range(9))
    elif mode in ("weak", "strong"):
        config.seed = {"weak": 9, "strong": 10}[mode]
        config.steps = {"weak": 1500, "strong": 2400}[mode]
    elif mode == "prior":
        config.rows.update(points=0, terse=0, revised=0, shown=0)
    elif mode == "quick":
        config.rules = 4
        config.rows.terse = 2
        config.rows.revised = 2
        config.rows.shown = 2
        config.rows.failures = 2
        config.rows.prior = 16
        config.model.width = 32
        config.model.layers = 2
        config.steps = 20
        config.chunk = 10
        config.test_examples = 64
    return config
