"""Benchmarks of the harness from files that lie in a folder, for machines without network.

Questions, endings and scores are those of the harness's own tasks of the same names; only where the
documents come from differs. The files are the published ones, see `FILES`.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm_eval.tasks.hellaswag.utils import preprocess

Document = dict[str, Any]
FILES = {  # name -> where its documents lie in the folder
    "hellaswag": "hellaswag/*.jsonl",
    "winogrande": "winogrande/dev.jsonl",
    "mmlu": "mmlu/test/*.jsonl",
    "mmlu_cloze": "mmlu/test/*.jsonl",
    "truthfulqa_best": "truthfulqa/TruthfulQA.csv",
}
BY_LENGTH = ("hellaswag", "mmlu_cloze")  # also scored a character of the choice: `acc_norm`


def local_task(name: str, folder: str | Path) -> dict[str, Any]:
    """A config for the harness. ValueError for a name that is not in FILES, or without its files.

    `mmlu` asks for the letter, `mmlu_cloze` for the answer itself, both without examples before.
    `truthfulqa_best` is mc1 with one right answer, the best, among all that the file calls wrong:
    the published file has no targets for mc1 and mc2.
    """
    if name not in FILES:
        raise ValueError(f"local task {name!r} must be one of {', '.join(FILES)}")
    paths = sorted(Path(folder).glob(FILES[name]))
    if not paths:
        raise ValueError(f"{folder} has no {FILES[name]}, which the local task {name!r} reads")
    found = [document for path in paths for document in _documents(path)]
    return {
        "task": f"local_{name}",
        "custom_dataset": lambda **_: {"test": _dataset([CHOICES[name](each) for each in found])},
        "test_split": "test",
        "output_type": "multiple_choice",
        # Where each choice is a context of its own, the harness wants their places swapped.
        "doc_to_text": "gold" if name == "winogrande" else "query",
        "doc_to_choice": "choices",
        "doc_to_target": "query" if name == "winogrande" else "gold",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")[: 1 + (name in BY_LENGTH)]
        ],
        "metadata": {"version": 1.0},
    }


def _dataset(documents: list[Document]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(documents)


def _documents(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)


def _hellaswag(document: Document) -> Document:
    context = document["ctx_a"] + " " + document["ctx_b"].capitalize()
    return {
        "query": preprocess(f"{document['activity_label']}: {context}"),
        "choices": [preprocess(ending) for ending in document["endings"]],
        "gold": int(document["label"]),
    }


def _winogrande(document: Document) -> Document:
    """What follows the blank is scored behind either option."""
    before, after = document["sentence"].split("_", 1)
    return {
        "query": after.strip(),
        "choices": [before + document[option] for option in ("option1", "option2")],
        "gold": int(document["answer"]) - 1,
    }


def _mmlu(document: Document) -> Document:
    options = zip("ABCD", document["choices"], strict=True)
    lines = [document["question"].strip(), *(f"{letter}. {text}" for letter, text in options)]
    return {
        "query": "\n".join([*lines, "Answer:"]),
        "choices": [*"ABCD"],
        "gold": int(document["answer"]),
    }


def _mmlu_cloze(document: Document) -> Document:
    return {
        "query": f"Question: {document['question'].strip()}\nAnswer:",
        "choices": [str(choice) for choice in document["choices"]],
        "gold": int(document["answer"]),
    }


def _truthfulqa(document: Document) -> Document:
    wrong = [text.strip() for text in document["Incorrect Answers"].split(";")]
    return {
        "query": f"Q: {document['Question']}\nA:",
        "choices": [document["Best Answer"].strip(), *filter(None, wrong)],
        "gold": 0,
    }


CHOICES: dict[str, Callable[[Document], Document]] = {
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "mmlu": _mmlu,
    "mmlu_cloze": _mmlu_cloze,
    "truthfulqa_best": _truthfulqa,
}
