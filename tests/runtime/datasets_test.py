import dataclasses
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlrazor.runtime import datasets

COUNTS = {"train": 24, "test": 12}
REAL = os.environ.get("TFDS_DATA_DIR")


def stored_order(split, n):
    """Slow twin of TFDS's shuffle: keys sorted by the md5 of the split's name and the key."""
    return sorted(range(n), key=lambda key: hashlib.md5(f"{split}{key}".encode()).digest())


def originals(name, split):
    n = COUNTS[split]
    generator = np.random.default_rng([len(name), n])
    images = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return images, generator.integers(0, 10, n).astype(np.int32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory with a few images in the schema of TFDS, made by a builder of the test."""
    with datasets.quiet_tfds() as tfds, pytest.MonkeyPatch.context() as monkeypatch:

        class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(datasets.VERSION)

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                features = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in COUNTS}

            def _generate_examples(self, split):
                for index, (image, label) in enumerate(
                    zip(*originals(self.name, split), strict=True)
                ):
                    png = io.BytesIO()
                    Image.fromarray(image).save(png, format="png")
                    yield index, {"image": io.BytesIO(png.getvalue()), "label": int(label)}

        root = tmp_path_factory.mktemp("tfds")
        monkeypatch.setattr(tempfile, "tempdir", str(root.parent))  # TFDS forgets folders there
        tfds.display_progress_bar(False)
        for name in datasets.NAMES:
            builder = type(name, (Tiny,), {"name": name}, skip_registration=True)
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder = builder(data_dir=str(root), file_format="array_record")
            builder.download_and_prepare(download_config=config)
    return root


@pytest.fixture
def data_dir(prepared, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(prepared, tmp_path / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rlrazor"


def load(data_dir, name="mnist", split="train"):
    return datasets.load_mnist_family(name, split, data_dir=str(data_dir))


def assert_equal(actual, expected):
    np.testing.assert_array_equal(actual.images, expected.images)
    np.testing.assert_array_equal(actual.labels, expected.labels)


@pytest.mark.parametrize("name", datasets.NAMES)
@pytest.mark.parametrize("split", datasets.SPLITS)
def test_loads_every_image_with_its_label_in_stored_order(prepared, name, split):
    images, labels = originals(name, split)
    order = stored_order(split, len(labels))
    for _ in range(2):  # decoded, then cached
        loaded = load(prepared, name, split)
        assert_equal(loaded, datasets.ImageSet(images[order], labels[order]))
        assert loaded.images.dtype == np.uint8
        assert loaded.labels.dtype == np.int32


def test_an_image_set_is_frozen(prepared):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load(prepared).labels = None


# Hides TensorFlow where it is installed; an attempt to import it fails as where it is not.
HIDE_TENSORFLOW = """
import sys

class Hidden:
    finders = list(sys.meta_path)

    def find_spec(self, name, *args):
        if name.split(".")[0] == "tensorflow":
            return None
        return next(filter(None, (finder.find_spec(name, *args) for finder in self.finders)), None)

sys.meta_path[:] = [Hidden()]
"""


def test_needs_no_tensorflow_and_says_nothing(prepared):
    code = f"""{HIDE_TENSORFLOW}
from rlrazor.runtime import datasets
assert not {{"tensorflow_datasets", "sklearn"}} & set(sys.modules)  # slow to import
print(len(datasets.load_mnist_family("mnist", "test", data_dir={str(prepared)!r}).labels))
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("12\n", "", 0)


def test_data_dir_defaults_to_that_of_tfds(prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    loaded = datasets.load_mnist_family("mnist", "test", data_dir=None)
    assert len(loaded.labels) == COUNTS["test"]
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.find_data_dir(None) == tmp_path / "tensorflow_datasets"
    assert datasets.find_data_dir("~/x") == tmp_path / "x"


def test_the_second_load_reads_the_cache(prepared, monkeypatch):
    first = load(prepared)
    monkeypatch.setattr(datasets, "_decode", None)
    assert_equal(load(prepared), first)


def test_other_source_files_make_another_cache(data_dir):
    before = load(data_dir)
    folder = data_dir / "mnist" / datasets.VERSION
    other = data_dir / "fashion_mnist" / datasets.VERSION
    shard = "-train.array_record-00000-of-00001"
    target = folder / f"mnist{shard}"
    times = target.stat()
    shutil.copyfile(other / f"fashion_mnist{shard}", target)
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))  # only the content tells
    assert not np.array_equal(load(data_dir).images, before.images)
    assert_equal(load(data_dir), load(data_dir, "fashion_mnist"))


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path(os.environ["XDG_CACHE_HOME"]) / "exploded",)


def flip(path):
    data = bytearray(path.read_bytes())
    data[5000] ^= 1  # in the pixels
    path.write_bytes(data)


def save_bomb(path):
    np.savez(path, images=np.array([Bomb()], dtype=object), labels=np.zeros(24, np.int32))


def save_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:9000]),
    "flipped": flip,
    "text": lambda path: path.write_text("not a cache"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "pickle_in_zip": save_bomb,
    "single_array": save_array,
    "other_names": lambda path: np.savez(path, x=np.zeros(24)),
    "other_shape": lambda path: np.savez(
        path, images=np.zeros((2, 28, 28), np.uint8), labels=np.zeros(2, np.int32)
    ),
    "other_dtype": lambda path: np.savez(
        path, images=np.zeros((24, 28, 28)), labels=np.zeros(24, np.int32)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_cache_is_made_again(prepared, cache, monkeypatch, damage):
    expected = load(prepared)
    (path,) = cache.iterdir()
    damage(path)
    assert_equal(load(prepared), expected)
    assert not (cache.parent / "exploded").exists()
    assert list(cache.iterdir()) == [path]
    monkeypatch.setattr(datasets, "_decode", None)
    assert_equal(load(prepared), expected)


def test_works_without_a_cache(prepared, cache, monkeypatch, tmp_path):
    expected = load(prepared)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # cannot hold a folder
    assert_equal(load(prepared), expected)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody at home
    assert_equal(load(prepared), expected)
    assert not Path("~").exists()


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_the_cache_is_in_the_home_folder_by_default(prepared, monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    load(prepared)
    assert len(list((tmp_path / ".cache" / "rlrazor").iterdir())) == 1


def test_a_full_disk_leaves_no_half_a_cache(prepared, cache, monkeypatch):
    def savez(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    assert len(load(prepared).labels) == COUNTS["train"]
    assert list(cache.iterdir()) == []


def test_missing_data_says_what_where_and_how(tmp_path):
    root = tmp_path / "no data"
    with pytest.raises(ValueError, match=r"fashion_mnist 3\.0\.1 is not prepared") as caught:
        load(root, "fashion_mnist")
    message = str(caught.value)
    assert str(root / "fashion_mnist" / "3.0.1" / "dataset_info.json") in message
    assert message.endswith(f"python experiments/prepare_data.py --data_dir='{root}'")
    assert not root.exists()


def test_a_half_written_folder_is_missing_data(data_dir):
    folder = data_dir / "mnist" / datasets.VERSION
    folder.rename(folder.with_name("incomplete.ABC123_3.0.1"))  # as TFDS leaves it when killed
    with pytest.raises(ValueError, match="not prepared"):
        load(data_dir)


def edit_info(folder, **changes):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def records(folder):
    return folder / "mnist-train.array_record-00000-of-00001"


BREAKAGES = {
    "truncated": lambda folder: os.truncate(records(folder), 70_000),
    "empty": lambda folder: os.truncate(records(folder), 0),
    "gone": lambda folder: records(folder).unlink(),
    "no_json": lambda folder: (folder / "dataset_info.json").write_text("{"),
    "no_splits": lambda folder: edit_info(folder, splits=[]),
    "other_count": lambda folder: shutil.copyfile(
        folder / "mnist-test.array_record-00000-of-00001", records(folder)
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_damaged_data_is_one_clear_error(data_dir, cache, breakage):
    breakage(data_dir / "mnist" / datasets.VERSION)
    with pytest.raises(ValueError, match=r"cannot read .*delete that folder and run: python"):
        load(data_dir)
    assert not cache.exists()


def test_refuses_what_it_cannot_read(data_dir):
    with pytest.raises(ValueError, match="name='minst' must be one of mnist, fashion_mnist"):
        load(data_dir, "minst")
    with pytest.raises(ValueError, match="split='valid' must be one of train, test"):
        load(data_dir, split="valid")
    with pytest.raises(ValueError, match="must be a local folder"):
        load("gs://bucket/data")
    edit_info(data_dir / "mnist" / datasets.VERSION, fileFormat="tfrecord")
    with pytest.raises(ValueError, match="holds tfrecord files"):
        load(data_dir)


def test_digits_are_split_without_loss_or_overlap():
    from sklearn.datasets import load_digits

    train, test = datasets.load_digits(test_count=360, seed=0)
    assert train.images.shape == (1437, 8, 8)
    assert test.images.shape == (360, 8, 8)
    assert train.images.dtype == test.images.dtype == np.uint8
    assert train.labels.dtype == test.labels.dtype == np.int32

    def rows(images, labels):
        pairs = zip(images, labels, strict=True)
        return sorted((image.tobytes(), int(label)) for image, label in pairs)

    digits = load_digits()
    levels = np.array([round(level * 255 / 16) for level in range(17)], np.uint8)
    expected = rows(levels[digits.images.astype(int)], digits.target)
    assert sorted(rows(train.images, train.labels) + rows(test.images, test.labels)) == expected


def test_digits_depend_on_the_seed_alone():
    first, again, other = (datasets.load_digits(test_count=9, seed=seed) for seed in (1, 1, 2))
    for part, same, different in zip(first, again, other, strict=True):
        assert_equal(part, same)
        assert not np.array_equal(part.images, different.images)
    for test_count in (0, 1797, -1):
        with pytest.raises(ValueError, match="test_count="):
            datasets.load_digits(test_count=test_count, seed=1)


def test_pixels_move_alike_in_every_image():
    images = np.arange(3 * 20, dtype=np.uint8).reshape(3, 4, 5)
    labels = np.array([4, 5, 6], np.int32)
    moved = datasets.permute_pixels(datasets.ImageSet(images, labels), seed=7)
    order = datasets.fixed_permutation(20, seed=7)
    for image, result in zip(images, moved.images, strict=True):
        assert [image.flat[source] for source in order] == list(result.flat)
    np.testing.assert_array_equal(moved.labels, labels)
    other = datasets.permute_pixels(datasets.ImageSet(images, labels), seed=8)
    assert not np.array_equal(other.images, moved.images)
    np.testing.assert_array_equal(images.ravel(), np.arange(60))  # the original is untouched


def test_fixed_permutation_is_fixed():
    np.testing.assert_array_equal(datasets.fixed_permutation(8, seed=0), [3, 2, 1, 6, 0, 7, 4, 5])
    for n in (0, 1, 1797):
        np.testing.assert_array_equal(np.sort(datasets.fixed_permutation(n, seed=3)), range(n))


@pytest.mark.skipif(not REAL, reason="TFDS_DATA_DIR names no folder with the real data")
@pytest.mark.parametrize(
    ("name", "first_labels", "mean"),
    [("mnist", "7210414959", 33.791224), ("fashion_mnist", "9211614657", 73.146567)],
)
def test_real_images_are_those_of_the_original_files(name, first_labels, mean):
    test = load(REAL, name, "test")
    order = stored_order("test", 10_000)
    assert test.images.shape == (10_000, 28, 28)
    assert "".join(str(test.labels[order.index(key)]) for key in range(10)) == first_labels
    np.testing.assert_allclose(test.images.mean(), mean, atol=1e-5)
