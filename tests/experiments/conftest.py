import json
from pathlib import Path

import jax
import pytest

from tests.oracles.scripts import ROOT, Script

QUICK = "jax_disable_most_optimizations"


@pytest.fixture(scope="module")
def quick_compiles():
    """Tiny programs run once or twice: compiling them is the cost, not running them."""
    before = jax.config.values[QUICK]
    jax.config.update(QUICK, True)
    yield
    jax.config.update(QUICK, before)


@pytest.fixture(scope="session")
def start_tiny(tmp_path_factory):
    """Starts the quickstart on a tiny study, in a process of its own (see oracles/scripts.py)."""
    cache = tmp_path_factory.mktemp("compiled")

    def start(workdir: Path, *overrides: str, **options) -> Script:
        config = f"--config={ROOT / 'tests' / 'oracles' / 'tiny_parity.py'}"
        return Script(
            "quickstart.py", config, f"--workdir={workdir}", *overrides,
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
