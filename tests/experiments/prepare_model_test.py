"""A GGUF file to a folder, as a command."""

import pytest

from rlrazor.models.pretrained import load_pretrained
from tests.oracles import tiny_chats
from tests.oracles import tiny_checkpoints as tiny
from tests.oracles.scripts import Script

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    from tests.oracles import tiny_gguf

    folder = tmp_path_factory.mktemp("gguf")
    tiny_chats.save(folder / "tokenizer", "qwen", tiny_chats.CHATML)
    return tiny_gguf.write(
        folder / "tiny.gguf", "Qwen2", tiny.tensors("Qwen2"),
        tokenizer=folder / "tokenizer", cut="qwen2",
    )  # fmt: skip


def ended(*arguments, folder):
    return Script("prepare_model.py", *arguments, folder=folder, cache=None).wait()


def test_it_says_what_to_do_next(file, tmp_path):
    out = tmp_path / "model"
    done = ended(f"--gguf={file}", f"--out={out}", folder=tmp_path / "run")
    assert done.status == 0, done.stderr
    assert f"use it as --config.model={out}" in done.stdout
    assert load_pretrained(out)[0].layers == 2


def test_mistakes_are_one_sentence(file, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    for wrong, sentence in (
        ([f"--gguf={file}", f"--out={tmp_path / 'model'}"], "exists and is not empty"),
        (["--gguf=none.gguf", "--out=x"], "there is no none.gguf"),
    ):
        done = ended(*wrong, folder=tmp_path / "run")
        assert done.status == 2
        assert done.sentence.startswith("prepare_model: ")
        assert sentence in done.sentence
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"
