"""lm-evaluation-harness on a tiny model: its requests beside plain forward passes."""

import csv
import json
import types

import jax
import numpy as np
import pytest

import rlrazor as rr
from rlrazor.lines import unpack_outcomes
from rlrazor.runtime.mesh import make_mesh
from tests.oracles import tiny_models
from tests.oracles.whole_rows import distribution_of, ending_by_hand

pytestmark = [
    pytest.mark.usefixtures("quick_compiles"),
    pytest.mark.filterwarnings("ignore"),  # what importing the harness warns of is not ours
]
pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager  # noqa: E402

from rlrazor.api.harness import HarnessModel, evaluate  # noqa: E402
from rlrazor.api.harness_columns import columns_of  # noqa: E402
from rlrazor.api.harness_tasks import local_task  # noqa: E402

MANAGER = TaskManager(include_defaults=False)  # does not look for the harness's own tasks
DOCUMENTS = [
    {"query": f"{n} + {n % 3} is", "choices": [f"{n}", "12 or so", "3"], "gold": n % 3}
    for n in range(6)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save(tmp_path_factory.mktemp("harness") / "model")


@pytest.fixture(scope="module")
def base(folder):
    return rr.load(folder, mesh=make_mesh(data=2, devices=jax.devices()[:2]), answer_tokens=6)


@pytest.fixture(scope="module")
def model(base):
    return HarnessModel(base, rows_at_once=4, max_length=48)


@pytest.fixture(scope="module")
def distribution(folder):
    return distribution_of(folder)


def asked(*arguments):
    return types.SimpleNamespace(args=arguments)


def task(**changes):
    from datasets import Dataset

    return {
        "task": "tiny",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(DOCUMENTS)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "query",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm")],
        **changes,
    }


def test_a_task_is_scored_as_by_hand(model, distribution):
    found = evaluate(model, [task()], task_manager=MANAGER)
    tokenizer = model.tokenizer
    right, gold = [], []
    for document in DOCUMENTS:
        context = tokenizer.encode(document["query"])
        scores = [
            ending_by_hand(
                distribution,
                context,
                tokenizer.encode(f"{document['query']} {choice}")[len(context) :],
            )[0]
            for choice in document["choices"]
        ]
        right.append(int(np.argmax(scores)) == document["gold"])
        gold.append(-scores[document["gold"]])
    assert found["results"]["tiny"]["acc,none"] == np.mean(right)
    columns = columns_of(found, "prior/tiny")
    assert columns["prior/tiny/accuracy"] == np.mean(right)
    assert columns["prior/tiny/count"] == len(DOCUMENTS)
    assert unpack_outcomes(columns["outcomes/prior/tiny"]).tolist() == right
    np.testing.assert_allclose(columns["prior/tiny/gold_nats"], np.mean(gold), rtol=1e-4)
    assert 0 <= columns["prior/tiny/acc_norm"] <= 1


def test_a_text_is_scored_in_windows_that_do_not_overlap(model, distribution):
    text = "How many, 12 or 3? " * 12
    ids = model.tokenizer.encode(text)
    assert len(ids) > 2 * model.max_length
    expected, context = 0.0, [model.prefix_token_id]
    starts = [0, *range(model.max_length, len(ids), model.max_length)]
    for start in starts:
        window = ids[start : start + model.max_length]
        short = model.max_length - len(window)  # the last one sees as much as fits before it
        if start:
            context = ids[start - 1 - short : start]
        expected += ending_by_hand(distribution, context, window)[0]
    (found,) = model.loglikelihood_rolling([asked(text)], disable_tqdm=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_context_that_is_too_long_loses_its_beginning(model, distribution):
    context, ending = "12 or 3? " * 30, " both"
    ids, said = model._encode_pair(context, ending)
    kept = ids[-(model.max_length + 1 - len(said)) :]
    (found,) = model.loglikelihood([asked(context, ending)], disable_tqdm=True)
    np.testing.assert_allclose(found[0], ending_by_hand(distribution, kept, said)[0], rtol=1e-4)
    (empty,) = model.loglikelihood([asked("", ending)], disable_tqdm=True)
    said = model.tokenizer.encode(ending)
    expected = ending_by_hand(distribution, [model.prefix_token_id], said)
    np.testing.assert_allclose(empty[0], expected[0], rtol=1e-4)
    with pytest.raises(ValueError, match="an ending of 66 tokens does not fit max_length=48"):
        model._loglikelihood_tokens([(None, [5], [5] * 66)], disable_tqdm=True)


def test_answers_are_the_likeliest_and_end_where_asked(model, distribution):
    prompts = ["How many, 12 or 3?", "3", "def f(x):"]
    settings = {"until": [], "max_gen_toks": 5}
    whole = model.generate_until([asked(p, settings) for p in prompts], disable_tqdm=True)
    for prompt, said in zip(prompts, whole, strict=True):
        row = model.tokenizer.encode(prompt)
        start = len(row)
        while len(row) < start + 5:
            row.append(int(distribution(row)[len(row) - 1].argmax()))
            if row[-1] in model.base.chat.stop_ids:
                break
        assert said == model.tokenizer.decode(row[start:], skip_special_tokens=True)
    text = max(whole, key=len)
    until = {"until": [text[2], "never said"], "max_gen_toks": 5}
    (cut,) = model.generate_until([asked(prompts[whole.index(text)], until)], disable_tqdm=True)
    assert cut == text[: text.index(text[2])]
    for wrong, told in (({"top_p": 0.5}, "top_p=0.5"), ({"max_gen_toks": 48}, "leave no room")):
        with pytest.raises(ValueError, match=told):
            model.generate_until([asked("3", {"until": [], **wrong})], disable_tqdm=True)


def test_chats_are_the_models_own(model):
    history = [{"role": "user", "content": "12 or 3?"}]
    text = model.apply_chat_template(history)
    assert "12 or 3?" in text
    assert model.tok_encode(text) == rr_prompt(model, history)
    found = evaluate(model, [task()], task_manager=MANAGER, apply_chat_template=True, limit=2)
    assert len(found["samples"]["tiny"]) == 2


def rr_prompt(model, history):
    from rlrazor.runtime.chat import prompt

    return prompt(model.base.chat, history).tolist()


def test_its_own_command_finds_the_model(folder):
    from lm_eval.api.registry import get_model

    made = get_model("rlrazor").create_from_arg_string(
        f"model={folder},max_length=32,rows_at_once=2", {"batch_size": 8, "device": None}
    )
    assert (made.max_length, made.rows_at_once) == (32, 2)


def test_benchmarks_are_prior_tasks_of_a_study(base, folder, tmp_path):
    lines = tiny_models.sums(tmp_path / "sums.jsonl", count=8)
    sizes = rr.Asked(prompt_buckets=(96,), row_buckets=(128,), test_examples=4, at_once=4)
    benchmark = rr.harness(
        base, {"tiny": task(), "other": task(task="other")}, limit=4, task_manager=MANAGER
    )
    world = rr.questions(
        base, train=lines, new=lines, prior={"sums": lines, "benchmarks": benchmark}, sizes=sizes
    )
    (prior,) = [m for m in world.measurements if m.prefix == "prior" and m.beside]
    assert [*prior.beside] == ["accuracy", "sums/accuracy", "tiny/accuracy", "other/accuracy"]
    columns = prior.of(base.params, base.params, None, jax.random.key(0))
    each = [columns[f"prior/{name}/accuracy"] for name in ("sums", "tiny", "other")]
    assert columns["prior/accuracy"] == np.mean(each)
    assert columns["prior/count"] == 4 + 4 + 4
    json.dumps({"columns": columns, "record": world.record})  # both are lines of files
    moved = jax.tree.map(lambda x: x + 0.3, base.params)
    other = prior.of(moved, base.params, None, jax.random.key(0))
    assert other["prior/tiny/gold_nats"] != columns["prior/tiny/gold_nats"]
    alone = rr.questions(base, train=lines, prior={"benchmarks": benchmark}, sizes=sizes)
    assert [m.prefix for m in alone.measurements] == ["prior"]


def test_a_task_that_says_nothing_right_is_refused(model):
    found = evaluate(
        model,
        [task(metric_list=[{"metric": "acc_norm", "aggregation": "mean"}])],
        task_manager=MANAGER,
    )
    with pytest.raises(ValueError, match="scores acc_norm and none of acc, exact_match"):
        columns_of(found, "prior/tiny")


# Benchmarks from files.

HELLASWAG = {
    "ctx_a": "A man jumps.", "ctx_b": "he [step] lands", "activity_label": "Jumping", "label": 2,
    "endings": ["and  flies.", "[title] again.", "on his feet.", "never."],
}  # fmt: skip
WINOGRANDE = {"sentence": "Sara paid Maria as _ was kind.", "option1": "Sara", "option2": "Maria",
              "answer": "2"}  # fmt: skip
MMLU = {"question": " Two and two? ", "choices": ["1", "2", "3", "4"], "answer": 3}


@pytest.fixture
def files(tmp_path):
    for name, file, document in (
        ("hellaswag", "val.jsonl", HELLASWAG),
        ("winogrande", "dev.jsonl", WINOGRANDE),
        ("mmlu/test", "sums.jsonl", MMLU),
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_text(json.dumps(document) + "\n")
    (tmp_path / "truthfulqa").mkdir()
    with (tmp_path / "truthfulqa" / "TruthfulQA.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Best Answer", "Incorrect Answers"])
        writer.writerow(["Is it, or not?", "It is", "It is not; Both; "])
    return tmp_path


EXPECTED = {
    "hellaswag": [
        ("Jumping: A man jumps. He lands", f" {ending}")
        for ending in ("and flies.", " again.", "on his feet.", "never.")
    ],
    "winogrande": [(f"Sara paid Maria as {who}", " was kind.") for who in ("Sara", "Maria")],
    "mmlu": [("Two and two?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", f" {each}") for each in "ABCD"],
    "mmlu_cloze": [("Question: Two and two?\nAnswer:", f" {each}") for each in "1234"],
    "truthfulqa_best": [
        ("Q: Is it, or not?\nA:", f" {each}") for each in ("It is", "It is not", "Both")
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_files_become_the_harness_own_requests(name, files, model):
    found = evaluate(model, [local_task(name, files)], task_manager=MANAGER)
    (sample,) = found["samples"][f"local_{name}"]
    assert [tuple(arguments) for arguments in sample["arguments"]] == EXPECTED[name]
    right = {"hellaswag": 2, "winogrande": 1, "mmlu": 3, "mmlu_cloze": 3, "truthfulqa_best": 0}
    scores = [nats for nats, _ in sample["filtered_resps"]]
    assert sample["acc"] == float(np.argmax(scores) == right[name])


def test_a_folder_without_the_files_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no winogrande/dev\.jsonl, which the local task"):
        local_task("winogrande", tmp_path)
    with pytest.raises(ValueError, match="local task 'arc' must be one of hellaswag, winogrande"):
        local_task("arc", tmp_path)
