"""A folder is taken as it is; a hub id is fetched, here by a stand-in that is told what to do."""

import sys

import huggingface_hub
import huggingface_hub.errors
import pytest

from rlrazor.runtime.hub import find_model


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """What was asked of it, and it gives a folder or raises what it is told to."""
    asked = []

    def fetch(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision))
        assert "*.safetensors" in allow_patterns
        assert not any(pattern in ("*", "*.bin", "*.py") for pattern in allow_patterns)
        if fetch.error is not None:
            raise fetch.error
        return str(tmp_path)

    fetch.error, fetch.asked = None, asked
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return fetch


def test_a_folder_is_itself(tmp_path, hub):
    assert find_model(tmp_path) == find_model(str(tmp_path)) == tmp_path
    assert hub.asked == []


def test_an_id_is_fetched_at_its_revision(tmp_path, hub):
    assert find_model("Qwen/Qwen2.5-3B") == find_model("a_b/c-1.d@refs/pr/1") == tmp_path
    assert hub.asked == [("Qwen/Qwen2.5-3B", None), ("a_b/c-1.d", "refs/pr/1")]


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "/no/where", "a/b/c", "a b/c", ""])
def test_what_is_neither_is_named(source, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not source:
        source = tmp_path / "none"
    with pytest.raises(ValueError, match=f"there is no folder {source}, and it is not a hub id"):
        find_model(source)
    assert hub.asked == []


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route\nmore"),
        huggingface_hub.errors.LocalEntryNotFoundError("no route"),
        huggingface_hub.errors.HFValidationError("no route"),
    ],
)
def test_what_cannot_be_fetched_is_named(hub, error):
    hub.error = error
    with pytest.raises(ValueError, match=r"no folder a/b, and it cannot be fetched .*\(no route\)"):
        find_model("a/b")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ValueError, match=r"needs the huggingface_hub package: pip install 'rlrazor"
    ):
        find_model("a/b")
