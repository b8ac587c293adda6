"""Real images as NumPy arrays: MNIST and Fashion-MNIST through TFDS, digits from scikit-learn.

TensorFlow is never needed. `tensorflow_datasets` and `sklearn` are imported where they are used,
because importing them takes longer than reading the cache.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

NAMES = ("mnist", "fashion_mnist")
SPLITS = ("train", "test")
VERSION = "3.0.1"


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    images: np.ndarray  # uint8[N, H, W] grey levels, 0 to 255
    labels: np.ndarray  # int32[N] classes, 0 to 9


def load_mnist_family(name: str, split: str, *, data_dir: str | None) -> ImageSet:
    """Reads one split of `mnist` or `fashion_mnist` 3.0.1, prepared by TFDS as array_record.

    The records keep the order in which TFDS stores them, a hash shuffle of the original files.
    `data_dir=None` means TFDS_DATA_DIR, else ~/tensorflow_datasets, as in TFDS. Decoding 60,000
    images takes seconds, so the arrays are cached under XDG_CACHE_HOME/rlrazor (~/.cache/rlrazor),
    keyed by the content of the source files; a cache that is damaged is made again.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r} must be one of {', '.join(NAMES)}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    root = find_data_dir(data_dir)
    count = _expected_count(name, split, root)
    cache = _cache_path(name, split, prepared_folder(name, root))
    image_set = _read_cache(cache, count) if cache else None
    if image_set is None:
        image_set = _decode(name, split, root)
        if cache:
            _write_cache(cache, image_set)
    return image_set


def load_digits(*, test_count: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Splits scikit-learn's 1,797 handwritten digits (8x8) at random into train and test.

    The 17 levels 0..16 are stretched to 0..255. Everything is on disk already: no download.
    """
    from sklearn import datasets

    digits: Any = datasets.load_digits()  # images float64[1797, 8, 8], target int64[1797]
    N = len(digits.target)
    if not 0 < test_count < N:
        raise ValueError(f"test_count={test_count} must leave both parts of {N} images non-empty")
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    order = fixed_permutation(N, seed=seed)
    test, train = order[:test_count], order[test_count:]
    return ImageSet(images[train], labels[train]), ImageSet(images[test], labels[test])


def permute_pixels(image_set: ImageSet, *, seed: int) -> ImageSet:
    """Moves the pixels of every image by one and the same permutation; labels stay.

    One seed permutes the train and the test images alike, which makes a second task that is as
    hard for an MLP as the first, and of which the first task says nothing.
    """
    N, H, W = image_set.images.shape
    order = fixed_permutation(H * W, seed=seed)
    images = image_set.images.reshape(N, H * W)[:, order].reshape(N, H, W)
    return ImageSet(images, image_set.labels)


def fixed_permutation(n: int, *, seed: int) -> np.ndarray:
    """Permutation int64[n] that no NumPy release changes: the raw bits are promised, the
    methods of `Generator` are not (NEP 19)."""
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def find_data_dir(data_dir: str | None) -> Path:
    """Resolves `data_dir`, or the default that TFDS would use."""
    text = str(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    if "://" in text:
        raise ValueError(
            f"data_dir={text!r} must be a local folder; copy the bucket's folder to this machine"
        )
    return Path(os.path.expanduser(text)).absolute()


def prepared_folder(name: str, root: Path) -> Path:
    """Where TFDS keeps dataset `name` below the data directory `root`."""
    return root / name / VERSION


def prepare_command(root: Path) -> str:
    """The shell command that prepares the data in `root`."""
    return f"python experiments/prepare_data.py --data_dir={shlex.quote(str(root))}"


@contextlib.contextmanager
def quiet_tfds() -> Iterator[Any]:
    """Imports tensorflow_datasets and hushes its advice (such as to install OpenCV) for a while."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_datasets as tfds

            yield tfds
    finally:
        logging.set_verbosity(verbosity)


def _expected_count(name: str, split: str, root: Path) -> int:
    """Number of records that dataset_info.json promises; raises if there is no usable dataset."""
    path = prepared_folder(name, root) / "dataset_info.json"
    if not path.is_file():
        raise ValueError(
            f"{name} {VERSION} is not prepared in data_dir={str(root)!r}: there is no {path}. "
            f"On a machine with a network, run: {prepare_command(root)}"
        )
    try:
        info = json.loads(path.read_bytes())
        file_format = info["fileFormat"]
        lengths = {s["name"]: sum(map(int, s["shardLengths"])) for s in info["splits"]}
        count = lengths[split]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(name, root, error) from error
    if file_format != "array_record":
        raise ValueError(
            f"{path.parent} holds {file_format} files, which only TensorFlow reads; this needs "
            f"array_record: choose another folder DIR and run: {prepare_command(Path('DIR'))}"
        )
    return count


def _decode(name: str, split: str, root: Path) -> ImageSet:
    """Reads every record with the stock TFDS builder, which fails if one is missing."""
    try:
        with quiet_tfds() as tfds:
            builder = tfds.builder(
                f"{name}:{VERSION}", data_dir=str(root), file_format="array_record"
            )
            source = builder.as_data_source(split=split)
            records = source.__getitems__(range(len(source)))
        images = np.asarray([r["image"] for r in records], np.uint8).reshape(-1, 28, 28)
        labels = np.asarray([r["label"] for r in records], np.int32)
    except (ImportError, MemoryError):
        raise  # not the files' fault
    except Exception as error:  # TFDS and its C++ reader fail on damaged files in many ways
        raise _damaged(name, root, error) from error
    return ImageSet(images, labels)


def _damaged(name: str, root: Path, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return ValueError(
        f"cannot read {prepared_folder(name, root)} ({reason}); delete that folder and run: "
        f"{prepare_command(root)}"
    )


def _cache_path(name: str, split: str, folder: Path) -> Path | None:
    """File named by the sha256 of what it is made from; None without a home or without sources."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home):  # the specification says to ignore relative ones
        home = os.path.expanduser("~/.cache")
    if not os.path.isabs(home):
        return None
    digest = hashlib.sha256()
    try:
        for path in [folder / "features.json", *sorted(folder.glob(f"{name}-{split}.array*"))]:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        return None  # reading the records will say what is wrong
    return Path(home) / "rlrazor" / f"{name}-{split}-{digest.hexdigest()[:16]}.npz"


def _read_cache(path: Path, count: int) -> ImageSet | None:
    """The cached arrays, or None if they are not there or not intact (zip has a CRC)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except Exception:  # a damaged zip fails in many ways, and the cure is always the same
        return None
    intact = images.shape == (count, 28, 28) and labels.shape == (count,)
    if not intact or images.dtype != np.uint8 or labels.dtype != np.int32:
        return None
    return ImageSet(images, labels)


def _write_cache(path: Path, image_set: ImageSet) -> None:
    """Writes beside `path`, then renames, so that a reader never meets half a file."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, images=image_set.images, labels=image_set.labels)
        temporary.replace(path)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        logging.warning("cannot cache %s (%s): every start decodes the images again", path, error)
