import functools
import gzip
import hashlib
import http.server
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import requests

from rlrazor.runtime import datasets

with datasets.quiet_tfds() as tfds:
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.image_classification import mnist as stock

    from rlrazor.runtime import tfds_builders

COUNTS = {"train": 300, "test": 100}
FILES = {"train": "train", "test": "t10k"}


def originals(split):
    """Random images and labels in the order of the original files."""
    generator = np.random.default_rng(COUNTS[split])
    images = generator.integers(0, 256, (COUNTS[split], 28, 28), dtype=np.uint8)
    images[::2] //= 200  # some that PNG stores with few levels
    return images, generator.integers(0, 10, COUNTS[split]).astype(np.uint8)


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes(), 1))


def register(monkeypatch, folder, builder):
    """Makes TFDS expect the checksums of the files in `folder`."""
    infos = [checksums.compute_url_info(path) for path in sorted(folder.iterdir())]
    by_url = {urllib.parse.urljoin(builder.URL, info.filename): info for info in infos}
    monkeypatch.setattr(builder, "url_infos", by_url, raising=False)


@pytest.fixture(scope="module")
def originals_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for split, prefix in FILES.items():
        images, labels = originals(split)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # TFDS forgets folders there
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / "data"


@pytest.fixture
def by_hand(root, originals_dir, monkeypatch):
    """The four files of `mnist` where a user without network puts them."""
    folder = shutil.copytree(originals_dir, root / "downloads" / "manual" / "mnist")
    register(monkeypatch, folder, tfds_builders.Mnist)
    return folder


@pytest.fixture
def server(tmp_path, originals_dir, monkeypatch):
    """A web server in the place of the original one; yields the folder that it serves."""
    served = shutil.copytree(originals_dir, tmp_path / "served")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{running.server_port}/"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(tfds_builders.FashionMnist, "URL", url)
        register(monkeypatch, served, tfds_builders.FashionMnist)
        yield served
        running.shutdown()
        thread.join()


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def assert_nothing_left(root, name):
    """No dataset, and none of the folders in which TFDS works."""
    assert not (root / name / datasets.VERSION).exists()
    for pattern in ("*incomplete*", "*.tmp.*"):
        assert list(root.rglob(pattern)) == []
    with pytest.raises(ValueError, match="is not prepared"):
        datasets.load_mnist_family(name, "train", data_dir=str(root))


def test_the_stock_builder_reads_all_records_in_its_own_order(root, by_hand):
    assert tfds_builders.prepare("mnist", str(root))
    with datasets.quiet_tfds():
        builder = tfds.builder("mnist", data_dir=str(root), file_format="array_record")
        assert type(builder) is stock.MNIST
        for split, n in COUNTS.items():
            source = builder.as_data_source(split=split)
            images, labels = originals(split)
            order = sorted(range(n), key=lambda k: hashlib.md5(f"{split}{k}".encode()).digest())
            assert len(source) == n
            for record, key in zip(source.__getitems__(range(n)), order, strict=True):
                assert record["image"].shape == (28, 28, 1)
                np.testing.assert_array_equal(record["image"][..., 0], images[key])
                assert record["label"] == labels[key]


def test_preparing_twice_changes_nothing(root, by_hand):
    assert tfds_builders.prepare("mnist", str(root))
    before = snapshot(root)
    shutil.rmtree(by_hand)  # needed no more
    assert not tfds_builders.prepare("mnist", str(root))
    assert snapshot(root) == {k: v for k, v in before.items() if by_hand not in k.parents}


def test_the_script_leaves_prepared_data_as_it_is(root, by_hand):
    assert tfds_builders.prepare("mnist", str(root))
    before = snapshot(root)
    script = Path(__file__).parents[2] / "experiments" / "prepare_data.py"
    command = [sys.executable, "-W", "error", script, f"--data_dir={root}", "--datasets=mnist"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"mnist: looking in {root}\nmnist: already prepared and read back\n"
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)
    assert snapshot(root) == before


def test_downloads_once_and_prepares(root, server, monkeypatch, capfd):
    assert tfds_builders.prepare("fashion_mnist", str(root))
    assert capfd.readouterr() == ("", "")
    loaded = datasets.load_mnist_family("fashion_mnist", "test", data_dir=str(root))
    images, labels = originals("test")
    np.testing.assert_array_equal(np.sort(loaded.images.sum((1, 2))), np.sort(images.sum((1, 2))))
    np.testing.assert_array_equal(np.sort(loaded.labels), np.sort(labels))
    shutil.rmtree(root / "fashion_mnist")
    shutil.rmtree(server)
    monkeypatch.setattr(requests, "head", None)
    assert tfds_builders.prepare("fashion_mnist", str(root))  # from what was downloaded


@pytest.mark.parametrize("name", datasets.NAMES)
def test_addresses_and_checksums_are_those_of_tfds(name):
    builder = tfds_builders._BUILDERS[name]
    twin = {"mnist": stock.MNIST, "fashion_mnist": stock.FashionMNIST}[name]
    assert (builder.name, builder.URL, str(builder.VERSION)) == (name, twin.URL, "3.0.1")
    urls = {urllib.parse.urljoin(builder.URL, file) for file in tfds_builders._FILES.values()}
    assert urls == set(twin.url_infos)
    assert urls <= set(checksums.get_all_url_infos())


def test_prepares_without_tensorflow(root, by_hand):
    code = """
import sys

class Hidden:  # hides TensorFlow where it is installed
    finders = list(sys.meta_path)

    def find_spec(self, name, *args):
        if name.split(".")[0] == "tensorflow":
            return None
        return next(filter(None, (finder.find_spec(name, *args) for finder in self.finders)), None)

sys.meta_path[:] = [Hidden()]
from pathlib import Path
from rlrazor.runtime import tfds_builders
from tensorflow_datasets.core.download import checksums
infos = [checksums.compute_url_info(path) for path in Path(sys.argv[2]).iterdir()]
tfds_builders.Mnist.url_infos = {tfds_builders.Mnist.URL + i.filename: i for i in infos}
print(tfds_builders.prepare("mnist", sys.argv[1]), "tensorflow" in sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", code, str(root), str(by_hand)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("True False\n", "", 0)


def test_an_unreachable_server_is_one_sentence(root, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(tfds_builders.Mnist, "URL", url)
        with pytest.raises(ValueError, match=r"cannot download mnist .*ConnectionError") as caught:
            tfds_builders.prepare("mnist", str(root))
    assert str(root / "downloads" / "manual" / "mnist") in str(caught.value)
    assert_nothing_left(root, "mnist")


def test_a_vanished_file_is_one_sentence(root, server):
    (server / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"cannot download fashion_mnist \(DownloadError"):
        tfds_builders.prepare("fashion_mnist", str(root))
    assert_nothing_left(root, "fashion_mnist")


def test_a_sick_server_is_not_asked_for_long(root, server, monkeypatch):
    asked = []

    def refuse(self):
        asked.append(self.path)
        self.send_error(503)

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "do_GET", refuse)
    monkeypatch.setattr(tfds_builders, "_RETRIES", 1)
    with pytest.raises(ValueError, match=r"cannot download fashion_mnist \(RetryError"):
        tfds_builders.prepare("fashion_mnist", str(root))
    assert len(asked) == 2
    assert_nothing_left(root, "fashion_mnist")


def test_a_broken_connection_is_one_sentence(root, server, monkeypatch):
    def send_half(self, source, outputfile):
        outputfile.write(source.read()[:100])

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "copyfile", send_half)
    with pytest.raises(ValueError, match="cannot download fashion_mnist"):
        tfds_builders.prepare("fashion_mnist", str(root))
    assert_nothing_left(root, "fashion_mnist")


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_wrong_checksum_is_refused_and_then_mended(root, server, file):
    good = (server / file).read_bytes()
    (server / file).write_bytes(good[:-1] + b"!")
    with pytest.raises(ValueError, match=rf"{file}, downloaded to .* has wrong checksum") as caught:
        tfds_builders.prepare("fashion_mnist", str(root))
    assert "\n" not in str(caught.value)
    assert_nothing_left(root, "fashion_mnist")
    (server / file).write_bytes(good)
    assert tfds_builders.prepare("fashion_mnist", str(root))


def test_a_file_without_a_listed_checksum_is_refused(root, server, monkeypatch):
    monkeypatch.setattr(tfds_builders.FashionMnist, "url_infos", {})
    with pytest.raises(ValueError, match="checksum"):
        tfds_builders.prepare("fashion_mnist", str(root))
    assert_nothing_left(root, "fashion_mnist")


def write_short(path):
    write_idx(path, originals("train")[1][:-1])


CONTENTS = {
    "short": (write_short, "differ in length"),
    "not_idx": (lambda path: path.write_bytes(gzip.compress(b"<html>")), "not a whole IDX file"),
    "empty": (lambda path: path.write_bytes(gzip.compress(b"")), "not a whole IDX file"),
    "not_gzip": (lambda path: path.write_bytes(b"<html>"), "Not a gzipped file"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:99]), "ended before"),
}


@pytest.mark.parametrize(("write", "reason"), CONTENTS.values(), ids=CONTENTS.keys())
def test_failing_half_way_leaves_no_dataset(root, by_hand, monkeypatch, write, reason):
    write(by_hand / "train-labels-idx1-ubyte.gz")
    register(monkeypatch, by_hand, tfds_builders.Mnist)
    with pytest.raises(ValueError, match=rf"cannot prepare mnist in .*{reason}"):
        tfds_builders.prepare("mnist", str(root))
    assert_nothing_left(root, "mnist")


def test_read_idx_inverts_write_idx(tmp_path):
    for values in (originals("test")[0], originals("test")[1], np.zeros((0, 28, 28), np.uint8)):
        write_idx(tmp_path / "file.gz", values)
        np.testing.assert_array_equal(tfds_builders.read_idx(tmp_path / "file.gz"), values)
    with gzip.open(tmp_path / "file.gz", "ab") as file:
        file.write(b"!")
    with pytest.raises(ValueError, match="not a whole IDX file"):
        tfds_builders.read_idx(tmp_path / "file.gz")


def test_an_unwritable_folder_is_one_sentence(tmp_path, root):
    (tmp_path / "file").touch()  # cannot hold a folder, even for a superuser
    with pytest.raises(ValueError, match=r"cannot write in data_dir=.*give another --data_dir"):
        tfds_builders.prepare("mnist", str(tmp_path / "file" / "data"))


def test_what_an_interruption_left_is_not_a_dataset(root, by_hand):
    assert tfds_builders.prepare("mnist", str(root))
    folder = datasets.prepared_folder("mnist", root)
    folder.rename(folder.with_name("incomplete.ABC123_3.0.1"))  # as TFDS leaves it when killed
    assert tfds_builders.prepare("mnist", str(root))
    (folder / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match=r"holds no dataset_info\.json; delete it"):
        tfds_builders.prepare("mnist", str(root))


def test_damaged_data_is_not_called_prepared(root, by_hand):
    assert tfds_builders.prepare("mnist", str(root))
    records = datasets.prepared_folder("mnist", root) / "mnist-test.array_record-00000-of-00001"
    records.write_bytes(records.read_bytes()[:70_000])
    with pytest.raises(ValueError, match="delete that folder"):
        tfds_builders.prepare("mnist", str(root))
