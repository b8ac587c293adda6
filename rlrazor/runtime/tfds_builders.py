"""Prepares MNIST and Fashion-MNIST for TFDS without TensorFlow.

The stock builders need TensorFlow to unpack the downloads and to encode PNG. These two inherit
their addresses, features and names, unpack with `gzip` and hand over finished PNG bytes; keys are
the stock ones, so the records and their order are too, and the stock builders read the result.
This module imports `tensorflow_datasets`: import it late.
"""

import contextlib
import gzip
import io
import logging
import math
import shutil
import sys
import tempfile
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.image_classification import mnist as stock

from rlrazor.runtime import datasets

_FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
_REACH_SECONDS = 20
_RETRIES = 4  # TFDS's ten, with growing pauses, are minutes of silence


class Mnist(stock.MNIST, skip_registration=True):
    """The stock `mnist`, prepared without TensorFlow."""

    VERSION = tfds.core.Version(datasets.VERSION)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        paths = {  # one by one: a failure leaves no other download running
            key: dl_manager.download(urllib.parse.urljoin(self.URL, file))
            for key, file in _FILES.items()
        }
        return {
            split: self._generate_examples(paths[f"{split}_images"], paths[f"{split}_labels"])
            for split in datasets.SPLITS
        }

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images_path: Path, labels_path: Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        images = read_idx(images_path)  # uint8[N, 28, 28]
        labels = read_idx(labels_path)  # uint8[N]
        if len(images) != len(labels):
            raise ValueError(f"{images_path} and {labels_path} differ in length")
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image).save(png, format="png")
            yield index, {"image": io.BytesIO(png.getvalue()), "label": int(label)}


class FashionMnist(Mnist, skip_registration=True):
    """The stock `fashion_mnist`, prepared without TensorFlow."""

    URL = stock.FashionMNIST.URL
    _info = stock.FashionMNIST._info


_BUILDERS = {"mnist": Mnist, "fashion_mnist": FashionMnist}


def prepare(name: str, data_dir: str | None) -> bool:
    """Downloads and prepares one dataset unless it is there, then reads it back in full.

    Returns whether it had to be prepared. Everything a user may meet is a ValueError of one
    sentence. A failure leaves no folder that would pass for a dataset: TFDS renames it at the end.
    """
    root = datasets.find_data_dir(data_dir)
    folder = datasets.prepared_folder(name, root)
    missing = not folder.exists()
    if missing:
        downloads = root / "downloads"
        by_hand = downloads / "manual" / name  # not `manual`: both datasets name files alike
        _check_writable(root)
        try:
            _check_reachable(name, downloads, by_hand)
            _download_and_prepare(name, root, by_hand)
        except (requests.RequestException, tfds.download.DownloadError) as error:
            raise ValueError(
                f"cannot download {name} ({type(error).__name__} at {_BUILDERS[name].URL}); check "
                f"the network, or put its four files *-ubyte.gz into {by_hand} and run this again"
            ) from error
        except NonMatchingChecksumError as error:
            what = str(error).splitlines()[0].rstrip(":")
            raise ValueError(f"{what}: not what TFDS lists; get that file again") from error
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ValueError(f"cannot prepare {name} in {root}: {error}") from error
        finally:  # of an interrupted download, TFDS leaves its folder
            for leftover in (downloads / name).glob("*.tmp.*"):
                shutil.rmtree(leftover, ignore_errors=True)
    elif not (folder / "dataset_info.json").is_file():
        raise ValueError(f"{folder} exists but holds no dataset_info.json; delete it, run again")
    for split in datasets.SPLITS:
        datasets.load_mnist_family(name, split, data_dir=str(root))
    return missing


def read_idx(path: Path) -> np.ndarray:
    """Array uint8[...] of a gzipped IDX file: 0, 0, type 8, rank, big-endian sizes, then bytes."""
    with gzip.open(path, "rb") as file:
        data = file.read()
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = np.frombuffer(data[4 : 4 + 4 * rank], ">u4").tolist()
    values = np.frombuffer(data[4 + 4 * rank :], np.uint8)
    if not rank or len(shape) != rank or values.size != math.prod(shape):
        raise ValueError(f"{path} is not a whole IDX file of unsigned bytes")
    return values.reshape(shape)


def _download_and_prepare(name: str, root: Path, by_hand: Path) -> None:
    downloader.MAX_RETRIES = _RETRIES
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a warning at every retry
    tfds.display_progress_bar(sys.stderr.isatty())
    config = tfds.download.DownloadConfig(
        manual_dir=by_hand, try_download_gcs=False, force_checksums_validation=True
    )
    builder = _BUILDERS[name](data_dir=str(root), file_format="array_record")
    with datasets.quiet_tfds(), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)


def _check_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write in data_dir={str(root)!r} ({error.strerror}); give another --data_dir"
        ) from error


def _check_reachable(name: str, downloads: Path, by_hand: Path) -> None:
    """Fails soon behind a firewall, where TFDS, which sets no time limit, would wait for long."""
    here = {path.name for path in by_hand.glob("*.gz")} >= set(_FILES.values())
    if not here and len(list((downloads / name).glob("*.gz"))) < len(_FILES):
        url = urllib.parse.urljoin(_BUILDERS[name].URL, _FILES["test_labels"])
        requests.head(url, timeout=_REACH_SECONDS).close()
