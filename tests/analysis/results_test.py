import json
import lzma
import math

import numpy as np
import pytest

from rlrazor.analysis.results import ALWAYS, REQUIRED, by_base, load_results, main_base
from tests.oracles import synthetic_results

ROW = {
    "run": "a",
    "arm": "grpo",
    "seed": 0,
    "step": 10,
    "final": True,
    "new/accuracy": 0.9,
    "new/base_accuracy": 0.75,
    "prior/accuracy": 0.5,
    "prior/base_accuracy": 0.625,
    "new/kl_base_policy_nats": 1.5,
}


def load(tmp_path, *rows):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_results(path)


def test_columns_by_hand(tmp_path):
    other = ROW | {
        "run": "b",
        "arm": "sft1",
        "final": False,
        "weights/l1": 3,
        "hyperparameters": {"learning_rate": 1e-4, "advantage_norm": None, "schedule": "cosine"},
    }
    results = load(tmp_path, ROW, other)
    assert len(results) == results.n_runs == 2
    assert results.arms == ("grpo", "sft1")
    np.testing.assert_allclose(results["forgetting"], [0.125, 0.125])
    np.testing.assert_allclose(results["gain"], [0.15, 0.15])
    np.testing.assert_array_equal(results["weights/l1"], [math.nan, 3.0])
    np.testing.assert_array_equal(results["hyperparameters/learning_rate"], [math.nan, 1e-4])
    assert list(results["hyperparameters/schedule"]) == [None, "cosine"]
    assert list(results["hyperparameters/advantage_norm"]) == [None, None]
    assert list(results.final()["run"]) == ["a"]
    assert list(results.of_arms("sft1", "absent")["run"]) == ["b"]
    assert "gain" in results
    assert "new/cka" not in results
    with pytest.raises(ValueError, match="no column 'new/cka'"):
        results["new/cka"]


def test_required_columns_suffice_and_each_is_required(tmp_path):
    few = {name: ROW[name] for name in REQUIRED}
    results = load(tmp_path, few)
    assert set(ALWAYS) <= set(results.columns)
    assert not results.has("gain")
    assert not results.has("forgetting")
    assert load(tmp_path, ROW).has("gain", "forgetting")
    for name in REQUIRED:
        rest = {key: value for key, value in ROW.items() if key != name}
        with pytest.raises(ValueError, match=rf"results.jsonl:2: no column '{name}'"):
            load(tmp_path, ROW | {"run": "first"}, rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1.5}, "'seed' must be an integer from 0 .* got 1.5"),
        ({"seed": True}, "'seed' must be an integer from 0 .* got True"),
        ({"final": 1}, "'final' must be true or false .* got 1"),
        ({"run": ""}, "'run' must be a text that is not empty"),
        (
            {"new/accuracy": "0.9"},
            "'new/accuracy' must be a number from 0 to 1.* got '0.9'",
        ),
        (
            {"prior/accuracy": 62.5},
            "'prior/accuracy' must be a number from 0 to 1.* got 62.5",
        ),
        ({"new/kl_base_policy_nats": "x"}, "must be a finite number or null"),
        ({"hyperparameters": [1]}, "hyperparameters must be an object"),
        ({"tasks": {"a": 1}}, "'tasks' must be a number, true, false, a text or null"),
        ({"weights/l1": "big"}, "'weights/l1' is a number on other lines, here 'big'"),
        ({"run": "first"}, "run 'first' has step 10 twice, first at .*:1"),
        ({"run": "first"}, "give each its own name in 'run', or report on their files one by one"),
        ({"schema": 3}, "'schema' must be 2 .*, got 3"),
        ({"schema": 2}, "no field 'study'"),
        ({"family": "near"}, "arm 'grpo' has the family 'near', but 'reward' at .*:1"),
        ({"run": "first", "step": 20}, "run 'first' has two final lines"),
        ({"run": "first", "step": 20, "final": False, "arm": "dft"}, "give every run its own name"),
    ],
)
def test_errors_name_the_line_and_what_is_wrong(tmp_path, change, message):
    first = ROW | {"run": "first", "weights/l1": 1.0}
    with pytest.raises(ValueError, match=rf"results.jsonl:2: .*{message}"):
        load(tmp_path, first, ROW | change)


def test_torn_missing_and_empty_files(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW)[:40])
    with pytest.raises(ValueError, match=r"jsonl:2: not JSON .*middle of a line"):
        load_results(path)
    path.write_text("{not json}\n" + json.dumps(ROW) + "\n")
    with pytest.raises(ValueError, match=r"jsonl:1: not JSON .*every line"):
        load_results(path)
    path.write_bytes(b"\xff\n" + json.dumps(ROW).encode())
    with pytest.raises(ValueError, match=r"jsonl:1: not JSON"):
        load_results(path)
    path.write_text("3\n")
    with pytest.raises(ValueError, match="got int"):
        load_results(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="no lines in"):
        load_results(path)
    with pytest.raises(ValueError, match="no results at"):
        load_results(tmp_path / "absent.jsonl")


def test_compressed_files(tmp_path):
    path, packed = tmp_path / "results.jsonl", tmp_path / "results.jsonl.xz"
    text = f"{json.dumps(ROW)}\n".encode()
    path.write_bytes(text)
    packed.write_bytes(lzma.compress(text))
    assert load_results(packed)["run"] == load_results(path)["run"]
    packed.write_bytes(lzma.compress(text)[:-9])
    with pytest.raises(ValueError, match=r"jsonl.xz is no whole .xz file"):
        load_results(packed)
    packed.write_bytes(lzma.compress(text + b"3\n"))
    with pytest.raises(ValueError, match=r"jsonl.xz:2: got int"):
        load_results(packed)


def test_several_files_and_doubles_across_them(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text(json.dumps(ROW))  # a last line without newline is whole
    b.write_text(json.dumps(ROW | {"run": "b"}) + "\n")
    assert list(load_results([a, str(b)])["run"]) == ["a", "b"]
    with pytest.raises(ValueError, match=r"a.jsonl:1: run 'a' has step 10 twice"):
        load_results([a, a, b])


def test_non_finite_rows_are_kept_then_left_out_and_counted(tmp_path):
    bad = [
        ROW | {"run": "nan", "new/kl_base_policy_nats": math.nan},
        ROW | {"run": "inf", "new/kl_base_policy_nats": math.inf},
        ROW | {"run": "null", "prior/accuracy": None},
    ]
    results = load(tmp_path, ROW, *bad)
    assert len(results) == 4
    kept, n_excluded = results.finite("new/kl_base_policy_nats", "forgetting")
    assert list(kept["run"]) == ["a"]
    assert n_excluded == 3
    assert results.finite("new/accuracy")[1] == 0


def test_step_zero_is_the_base(tmp_path):
    results = load(tmp_path, ROW | {"step": 0, "final": False}, ROW)
    assert list(results.trained()["step"]) == [10]


def test_bases_and_the_main_one(tmp_path):
    path = synthetic_results.write(
        tmp_path / "r.jsonl", arms=("sft1",), seeds=2, base_epochs=(2, 10), checkpoints=2
    )
    results = load_results(path)
    base = results.base_ids
    keys = set(zip(base, results["seed"], results["hyperparameters/base_epochs"], strict=True))
    assert len(keys) == len(set(base)) == 4
    keep = (results["hyperparameters/base_epochs"] == 10) | (results["seed"] == 0)
    main = main_base(results.select(keep))
    assert set(main["hyperparameters/base_epochs"]) == {10.0}
    assert set(main["seed"]) == {0, 1}
    bare = load(tmp_path, ROW, ROW | {"run": "b", "seed": 4})
    assert len(main_base(bare)) == 2  # nothing to choose by
    assert list(bare.base_ids) == [0, 1]


def test_row_order_does_not_matter_to_base_ids(tmp_path):
    results = load_results(
        synthetic_results.write(tmp_path / "r.jsonl", arms=("sft1",), base_epochs=(2, 10))
    )
    order = np.random.default_rng(0).permutation(len(results))
    np.testing.assert_array_equal(results.select(order).base_ids, results.base_ids[order])


def test_the_first_schema_becomes_the_second(tmp_path):
    old = ROW | {
        "arm": "grpo_turns_3",
        "ood/accuracy": 0.25,
        "ood/base_accuracy": 0.125,
        "hyperparameters": {"method": "grpo", "variant": "turns_3", "learning_rate": 1e-5},
    }
    results = load(tmp_path, old)
    for name, value in {
        "method": "grpo",
        "variant": "turns_3",
        "family": "reward",
        "label": "GRPO, 3 turns",
        "roles": "plain two_sided unnormalised",
        "study": "sft_memorizes_gp_l",
        "shift/rule/change": 0.125,
    }.items():
        assert results[name][0] == value, name
    assert results.shifts == ("shift/rule",)
    assert load(tmp_path, ROW)["study"][0] == "razor_parity"
    tuned = ROW | {"arm": "sft_lora", "hyperparameters": {"model": "q", "lora_rank": 8}}
    results = load(tmp_path, tuned)
    assert results["study"][0] == "finetune"
    assert results.sft == ("sft_lora",)


def test_starting_models_stand_apart(tmp_path):
    rows = [ROW | {"run": f"{base}{seed}", "seed": seed, "base": base}
            for base in ("small", "large") for seed in (0, 1)]  # fmt: skip
    results = load(tmp_path, *rows)
    assert len(set(results.base_ids)) == 4
    parts = by_base(results)
    assert {name: part.n_runs for name, part in parts.items()} == {"small": 2, "large": 2}
    assert list(by_base(load(tmp_path, ROW))) == [""]
