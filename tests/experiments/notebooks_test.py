"""Every notebook runs from top to bottom, and is committed without outputs."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.oracles import synthetic_results

NOTEBOOKS = sorted((Path(__file__).parents[2] / "experiments" / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("default")  # Jupyter's own
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=pytest.mark.slow if p.stem == "own_loss" else ()) for p in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    results = synthetic_results.write(tmp_path / "results.jsonl", seeds=3, checkpoints=2)
    monkeypatch.setenv("RLRAZOR_RESULTS", str(results))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        interrupt_on_timeout=True,  # so that the traceback says where it hung
        kernel_name="python3",
    )
    client.execute(cwd=tmp_path)
    assert any(cell.get("outputs") for cell in notebook.cells)
