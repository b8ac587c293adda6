"""Makes the small base model of the language studies, and scores it.

    python experiments/gp_base.py --config=configs/gp_base.py --workdir=DIR

Interrupted at any moment, the same command resumes. DIR/base then holds weights, tokenizer and
record: what the base was made of, and what it can do. experiments/bases/gp_small is shipped.
`--config.seeds="(1, 2, 3)"` makes several, in DIR/base-1 and so on.
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "gp_base.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run", required=True)
OPERATIONAL = ("checkpoint_every_seconds", "mesh")


def main(argv: Any) -> None:
    from rlrazor.runtime.mesh import prepare_host

    prepare_host()  # before anything computes

    from experiments.general_points.base import WEIGHTS, Base, pretrain, save_base, seeds_of
    from experiments.general_points.mixture import small_vocabulary
    from experiments.rule_shift.scores import make_score
    from rlrazor.models.pretrained import parameter_shapes
    from rlrazor.models.transformer import Transformer
    from rlrazor.models.transformer_config import TransformerConfig
    from rlrazor.runtime.weights import load_weights
    from rlrazor.runtime.workdir import describe_run, open_workdir

    config = CONFIG.value
    with open_workdir(WORKDIR.value, config.to_dict(), ignore=OPERATIONAL) as folder:
        tokenizer, words = small_vocabulary()
        shape = TransformerConfig(vocabulary=tokenizer.get_vocab_size(), **config.model)
        model = Transformer(shape)
        score = make_score(model, tokenizer, hands=config.test_examples)
        for seed, base in zip(
            seeds_of(config), pretrain(model, words, config, folder), strict=True
        ):
            params = load_weights(base / WEIGHTS, parameter_shapes(shape))
            scores = score(params, seed)
            made = {**config.to_dict(), "seed": seed}
            record = {**describe_run(made), "scores": scores}
            save_base(base, Base(model, params, tokenizer, record))
            for name, value in scores.items():
                print(f"{name:40} {value:.3f}")
            print(f"{base.resolve()}\n")


if __name__ == "__main__":
    cli.run(main)
