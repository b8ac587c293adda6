"""The two tasks as arrays: parity of digits (new) and a 10-way classification (prior)."""

import dataclasses
import operator
from typing import Any

import numpy as np

from rlrazor.runtime.datasets import ImageSet, load_digits, load_mnist_family, permute_pixels

INDICATOR_NEW, INDICATOR_PRIOR = 1.0, -1.0  # RL's Razor, Appendix B.3


@dataclasses.dataclass(frozen=True)
class Split:
    inputs: np.ndarray  # f32[N, D] standardised pixels, then the task indicator
    labels: np.ndarray  # i32[N] class of the image

    def take(self, count: int) -> "Split":
        """The first `count` examples (the stored order is already a shuffle)."""
        return Split(self.inputs[:count], self.labels[:count])


@dataclasses.dataclass(frozen=True)
class ParityData:
    prior_name: str
    new_train: Split
    new_test: Split
    prior_train: Split
    prior_test: Split


def _splits(train: ImageSet, test: ImageSet, indicator: float) -> tuple[Split, Split]:
    mean, std = train.images.mean() / 255, train.images.std() / 255

    def split(images: ImageSet) -> Split:
        pixels = images.images.reshape(len(images.labels), -1).astype(np.float32) / 255
        column = np.full((len(pixels), 1), indicator, np.float32)
        inputs = np.concatenate([(pixels - mean) / std, column], axis=1, dtype=np.float32)
        return Split(inputs, images.labels.astype(np.int32))

    return split(train), split(test)


def load_parity_data(dataset: str, data_dir: str | None) -> ParityData:
    """`mnist`: MNIST and Fashion-MNIST; `digits`: scikit-learn's digits and the same permuted."""
    if dataset == "mnist":
        prior_name = "fashion_mnist"
        new = [load_mnist_family("mnist", split, data_dir=data_dir) for split in ("train", "test")]
        prior = [
            load_mnist_family(prior_name, split, data_dir=data_dir) for split in ("train", "test")
        ]
    elif dataset == "digits":
        prior_name = "permuted_digits"
        new = list(load_digits(test_count=500, seed=0))
        prior = [permute_pixels(images, seed=1) for images in new]
    else:
        raise ValueError(f"config.dataset={dataset!r} must be 'mnist' or 'digits'")
    new_train, new_test = _splits(new[0], new[1], INDICATOR_NEW)
    prior_train, prior_test = _splits(prior[0], prior[1], INDICATOR_PRIOR)
    return ParityData(prior_name, new_train, new_test, prior_train, prior_test)


def check_sizes(config: Any, data: ParityData) -> None:
    """Refuses a config that asks for more images than there are, before any work is done."""
    for field, splits in {
        "base.examples_per_task": (data.new_train, data.prior_train),
        "test_examples": (data.new_test, data.prior_test),
        "fisher_examples": (data.prior_train,),
        "trajectory.examples": (data.new_test, data.prior_train),
    }.items():
        wanted = operator.attrgetter(field)(config)
        available = min(len(split.labels) for split in splits)
        if wanted > available:
            raise ValueError(f"config.{field}={wanted} must be at most the {available} images")
