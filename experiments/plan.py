"""What a fine-tuning run needs on a TPU slice, compiled for it here, without one.

    pip install -e '.[tpu]'
    python experiments/plan.py --config=configs/finetune.py:grpo --topology=v5e:4x4

Any methods: `--config.arms="('sft', 'ppo')"`. `--topology` is a kind of chip (v4, v5e, v5p, v6e)
and the shape of the slice. For every program that trains or measures and every device: bytes,
whether they fit, FLOPs, bytes through each exchange, and the least time by roofline. A layout that
does not fit is followed by one that does; `--suggest` looks for the best one at once. `--json=FILE`
keeps the figures.
"""

import json
import os
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

ROOT = Path(__file__).resolve().parent.parent
CONFIG = cli.config_flag(ROOT / "configs" / "finetune.py")
TOPOLOGY = flags.DEFINE_string("topology", None, "such as v5e:4x4", required=True)
SUGGEST = flags.DEFINE_bool("suggest", False, "look for a mesh and rows_at_once that fit")
JSON = flags.DEFINE_string("json", None, "file for the figures")
# The compiler asks no metadata server of a machine that is not in the cloud, and locks no chips.
ALONE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_ID": "0",
         "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu",
         "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # fmt: skip
# What is compiled for chips that are not there cannot be read back.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"


def main(argv: Any) -> None:
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)

    from experiments.finetuning.settings import check
    from experiments.planning.planning import plan, shape_of, suggestions, too_narrow
    from experiments.planning.table import describe, figures
    from experiments.planning.topology import chips_of
    from rlrazor.runtime.hardware import accelerator_of
    from rlrazor.runtime.mesh import make_mesh

    config = CONFIG.value
    check(config)
    shape = shape_of(config.model)
    chips = chips_of(TOPOLOGY.value)
    accelerator = accelerator_of(chips[0].device_kind)
    if accelerator is None:
        raise ValueError(f"no limits are known of {chips[0].device_kind!r}")
    config.mesh.update(make_mesh(**config.mesh, devices=chips).shape)  # what 0 stands for
    found: list[Any] = []
    narrow: list[Any] = []  # meshes on which sampling does not fit, however rows are cut
    tried = [] if SUGGEST.value else [config]
    for one in (*tried, *suggestions(config, shape, len(chips), accelerator)):
        if one.mesh in narrow:
            continue
        arms = plan(one, shape, chips, accelerator)
        for arm, costs in arms.items():
            print(describe(one, arm, costs, TOPOLOGY.value), flush=True)
            found += figures(one, arm, costs, TOPOLOGY.value)
        if all(cost.needs.fits for costs in arms.values() for cost in costs.values()):
            break
        if too_narrow([*arms.values()]):
            narrow.append(one.mesh)
    else:
        print(
            "no layout fits; take more chips, fewer rows (config.rows, prompts x samples, "
            "test_at_once) or shorter ones, or config.lora.rank=16"
        )
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
