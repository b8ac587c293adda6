"""The small base: what is shipped can be read, what is broken is named, training resumes."""

import json
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import gp_base
from experiments.general_points.base import (
    RECORD,
    TOKENIZER,
    WEIGHTS,
    Base,
    load_base,
    make_chunk,
    pretrain,
    row_logprobs,
    save_base,
)
from experiments.general_points.mixture import (
    Counts,
    draw_rows,
    make_mixture,
    many_rules,
    small_vocabulary,
)
from rlrazor.models.pretrained import parameter_shapes
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.mesh import compile_once, make_mesh
from rlrazor.runtime.tokenizer import vocabulary
from rlrazor.runtime.weights import load_weights
from rlrazor.studies import drive
from rlrazor.studies.language import each, stacked
from rlrazor.studies.programs import side_by_side
from rlrazor.tasks.procedural.pieces import TASKS
from tests.oracles.scripts import ROOT

SHIPPED = ROOT / "experiments" / "bases" / "gp_small"


def test_the_shipped_base_is_read_and_small():
    base = load_base(SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 5 * 2**20
    assert base.tokenizer.get_vocab_size() == base.model.config.vocabulary
    chex.assert_tree_all_finite(base.params)
    text = "add 17 25 ="
    tokens = jnp.array([vocabulary(base.tokenizer).encode_inside(text)])
    logprobs = row_logprobs(base.model, base.params, tokens)
    assert logprobs.shape == tokens.shape
    assert (logprobs[0, 1:] < 0).all()


def test_the_shipped_vocabulary_is_that_of_the_code():
    """Else prompts that the code makes today are not those that the base has learnt."""
    ours, _ = small_vocabulary()
    assert load_base(SHIPPED).tokenizer.get_vocab() == ours.get_vocab()


def test_the_record_says_what_the_base_was_made_of_and_can_do():
    record = load_base(SHIPPED).record
    made = gp_base.get_config()
    for field in ("seed", "rules", "steps", "learning_rate"):
        assert record["config"][field] == made[field]
    scores = record["scores"]
    for rule in ("J Q K = 10, greedy", "J Q K = 11 12 13, greedy"):
        assert 0.03 < scores[rule] < 0.25  # weak, and not blind: there is something to learn
    assert all(scores[f"prior {suite}, greedy"] > 0.85 for suite in TASKS)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "base")


def test_a_base_is_read_as_it_was_saved(folder, tmp_path):
    before = load_base(folder)
    save_base(tmp_path / "other" / "again", before)
    after = load_base(tmp_path / "other" / "again")
    chex.assert_trees_all_equal(after.params, before.params)
    assert after.model.config == before.model.config
    assert after.record == before.record
    assert after.tokenizer.to_str() == before.tokenizer.to_str()


@pytest.mark.parametrize("name", [RECORD, WEIGHTS, TOKENIZER])
@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_a_broken_file_is_named(folder, name, damage):
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    with pytest.raises(ValueError, match=re.escape(name)):
        load_base(folder)


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"model": {"width": 3}}, {"model": {"breadth": 3}}, {}],
    ids=["no model", "too little", "unknown", "nothing"],
)
def test_a_record_without_a_model_is_named(folder, change):
    (folder / RECORD).write_text(json.dumps(change))
    with pytest.raises(
        ValueError, match=re.escape(f"{folder / RECORD} is not the record of a base")
    ):
        load_base(folder)


def test_weights_of_another_size_are_named(folder):
    record = json.loads((folder / RECORD).read_text())
    record["model"]["width"] = 64
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"model.safetensors has 'params\.\S+' as float32"):
        load_base(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "none"))):
        load_base(tmp_path / "none")


# Training.


def tiny():
    config = gp_base.get_config("quick")
    config.rules = 2
    config.rows.update(points=1, terse=1, revised=1, failures=1, shown=1, prior=8)
    config.model.update(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16)
    config.steps, config.chunk = 6, 2
    config.checkpoint_every_seconds = -1.0  # after every chunk
    config.mesh.data = 1
    return config


@pytest.mark.usefixtures("quick_compiles")
def test_a_base_of_the_prior_tasks_alone_learns_from_them_alone():
    config, (tokenizer, words) = tiny(), small_vocabulary()
    config.rows.update(gp_base.get_config("prior").rows, prior=8)
    config.chunk = 1
    model = Transformer(TransformerConfig(vocabulary=tokenizer.get_vocab_size(), **config.model))
    chunk, initial = make_chunk(model, config, make_mesh(data=1))
    mixture = make_mixture(words, many_rules(config.rules, 0), config.prior_weights)
    state = compile_once(initial)(jax.random.key(0))
    _, metrics = compile_once(chunk)(state, mixture)
    assert "points_loss" not in metrics
    key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
    ((tokens, chosen),) = draw_rows(mixture, key, Counts(**config.rows), lambda keys: keys)
    logprobs = row_logprobs(model, state.params, tokens)
    np.testing.assert_allclose(metrics["loss"], -logprobs[chosen].mean(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiles")
def test_pretraining_resumes_to_the_bit(tmp_path, monkeypatch):
    config, (tokenizer, words) = tiny(), small_vocabulary()
    model = Transformer(TransformerConfig(vocabulary=tokenizer.get_vocab_size(), **config.model))
    shapes = parameter_shapes(model.config)
    (folder,) = pretrain(model, words, config, tmp_path / "whole")
    whole = load_weights(folder / WEIGHTS, shapes)
    save, calls = drive.Checkpoints.save, []

    def interrupted(self, position, *arguments):
        calls.append(position)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(self, position, *arguments)

    monkeypatch.setattr(drive.Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(model, words, config, tmp_path / "cut")
    assert calls == [1, 2]  # chunks of two steps
    (folder,) = pretrain(model, words, config, tmp_path / "cut")
    resumed = load_weights(folder / WEIGHTS, shapes)
    assert calls == [1, 2, 2, 3]
    lines = [(tmp_path / name / "results.jsonl").read_text() for name in ("whole", "cut")]
    assert lines[0] == lines[1]
    line = json.loads(lines[0])
    assert (line["step"], line["final"], line["diverged"]) == (6, True, False)
    assert line["train/loss"] > 0
    chex.assert_trees_all_equal(resumed, whole)
    fresh = model.init(jax.random.key(config.seed), jnp.zeros((1, 2), jnp.int32))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole, fresh)
    assert min(jax.tree.leaves(moved)) > 0
    save_base(tmp_path / "base", Base(model, whole, tokenizer, {"config": {"seed": 0}}))
    chex.assert_trees_all_equal(load_base(tmp_path / "base").params, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiles")
def test_bases_side_by_side_are_those_made_one_by_one(tmp_path):
    config, (tokenizer, words) = tiny(), small_vocabulary()
    config.steps, config.seeds = 2, (3, 4)
    model = Transformer(TransformerConfig(vocabulary=tokenizer.get_vocab_size(), **config.model))
    folders = pretrain(model, words, config, tmp_path)
    assert [folder.name for folder in folders] == ["base-3", "base-4"]
    chunk, initial = make_chunk(model, config, make_mesh(data=1))
    mixtures = [
        make_mixture(words, many_rules(config.rules, seed), config.prior_weights)
        for seed in config.seeds
    ]
    states = side_by_side(initial, 2)(stacked([jax.random.key(seed) for seed in config.seeds]))
    states, _ = compile_once(side_by_side(chunk, 2))(states, stacked(mixtures))
    for folder, params in zip(folders, each(states.params, 2), strict=True):
        alone = load_weights(folder / WEIGHTS, parameter_shapes(model.config))
        chex.assert_trees_all_close(params, alone, atol=1e-4)
    first, second = each(states.params, 2)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, second)
    assert max(jax.tree.leaves(moved)) > 0.01
