"""Downloads MNIST and Fashion-MNIST (42 MB) and prepares them for TFDS, without TensorFlow.

    python experiments/prepare_data.py --data_dir=DIR [--datasets=mnist,fashion_mnist]

Half a minute on two cores, once; where the data is already there it is only checked. For a machine
without network, put the four original files of each set into DIR/downloads/manual/mnist and
DIR/downloads/manual/fashion_mnist first.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from rlrazor.runtime import datasets

_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where to. Default: TFDS_DATA_DIR, else ~/tensorflow_datasets."
)
_DATASETS = flags.DEFINE_list("datasets", list(datasets.NAMES), "Which, separated by commas.")


def main(argv: Sequence[str]) -> int:
    try:
        if len(argv) > 1:
            raise ValueError(f"got {argv[1]!r}, but this takes only --data_dir and --datasets")
        for name in _DATASETS.value:
            if name not in datasets.NAMES:
                raise ValueError(
                    f"--datasets: got {name!r}, allowed are {', '.join(datasets.NAMES)}"
                )
        root = datasets.find_data_dir(_DATA_DIR.value)
        with datasets.quiet_tfds():
            from rlrazor.runtime import tfds_builders
        for name in _DATASETS.value:
            print(f"{name}: looking in {root}", flush=True)
            prepared = tfds_builders.prepare(name, str(root))
            print(f"{name}: {'prepared' if prepared else 'already prepared'} and read back")
    except ValueError as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    app.run(main)
