import json
from pathlib import Path

import pytest

from tests.oracles.scripts import ROOT, Script


@pytest.fixture(scope="session")
def start_tiny(tmp_path_factory, cache):
    """Starts the parity study at a tiny size, in a process of its own (see oracles/scripts.py)."""

    def start(workdir: Path, *overrides: str, **options) -> Script:
        config = f"--config={ROOT / 'tests' / 'oracles' / 'tiny_parity.py'}"
        return Script(
            "razor_parity.py", config, f"--workdir={workdir}", *overrides,
            folder=tmp_path_factory.mktemp("output"), cache=cache, **options,
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def finished(start_tiny, tmp_path_factory):
    """The workdir of a tiny study that was never interrupted; read it only."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    ended = start_tiny(workdir).wait()
    assert ended.status == 0, ended.stderr
    (workdir.parent / "stdout").write_text(ended.stdout)
    return workdir


@pytest.fixture
def read_lines():
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]
