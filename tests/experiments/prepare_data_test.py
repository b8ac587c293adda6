import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "prepare_data.py"


def run(tmp_path, *arguments):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", str(SCRIPT), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )


def test_wrong_files_end_with_one_sentence_and_code_2(tmp_path):
    by_hand = tmp_path / "data" / "downloads" / "manual" / "mnist"
    by_hand.mkdir(parents=True)
    for kind in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (by_hand / f"{kind}-ubyte.gz").write_bytes(b"not MNIST")
    done = run(tmp_path, f"--data_dir={tmp_path / 'data'}")
    assert done.returncode == 2
    assert done.stdout == f"mnist: looking in {tmp_path / 'data'}\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("prepare_data: ")
    assert "wrong checksum" in line
    assert not (tmp_path / "data" / "mnist" / "3.0.1").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--datasets=mnist,minst"], "--datasets: got 'minst', allowed are mnist, fashion_mnist"),
        (["--data_dir=gs://bucket"], "must be a local folder"),
        (["data"], "got 'data', but this takes only --data_dir and --datasets"),
        (["--data_dir=file/data"], "cannot write in data_dir="),
    ],
)
def test_mistakes_end_with_one_sentence_and_code_2(tmp_path, arguments, reason):
    (tmp_path / "file").touch()
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert reason in line
