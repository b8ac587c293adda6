"""A study as its config builds it: on a tiny folder, with files and a judge of the user's own."""

import contextlib
import dataclasses
import gzip
import io
import json
import re
import shutil
import sys
from typing import Any

import pytest

from configs.finetune import get_config
from experiments import report
from experiments.finetuning import settings
from experiments.finetuning.run import run_finetuning, summary
from rlrazor.lines import check_line
from rlrazor.runtime.chat import load_chat
from rlrazor.runtime.distributed import ALONE
from tests.oracles import tiny_chats, tiny_models

pytestmark = pytest.mark.usefixtures("quick_compiles")

JUDGE = """
from rlrazor import Verdict

SEEN = []

def graded(prompts, answers, truths):
    SEEN.append(list(prompts))
    return [Verdict(0.25 + len(answer) % 3 / 4, True) for answer in answers]
"""
TINY = {
    "prompt_buckets": (96,), "row_buckets": (96,), "answer_tokens": 48, "rows": 4, "prompts": 2,
    "samples": 4, "rows_at_once": 4, "steps": 2, "matched_flops": False, "checkpoints": (1.0,),
    "test_examples": 4, "test_at_once": 4, "vocabulary_chunk": 32, "compute_dtype": "float32",
    "remat": "none", "warmup_steps": 1, "tensorboard": False, "save_model": False, "mesh.fsdp": 1,
}  # fmt: skip
ENDLESS = 1e38  # a learning rate after which no weight is a number


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny_models.save(folder / "model")
    tiny_models.sums(folder / "train.jsonl")
    for name, count in {"test": 12, "harder": 8, "arc": 5}.items():
        tiny_models.sums(folder / f"{name}.jsonl", count=count)
    (folder / "mine.py").write_text(JUDGE)
    return folder


def tiny(files, mode="both", **changes):
    """The config with flags as a command line gives them."""
    config = get_config(mode)
    given = {
        "model": str(files / "model"), "data.path": str(files / "train.jsonl"),
        "data.test_path": str(files / "test.jsonl"), **TINY, **changes,
    }  # fmt: skip
    for name, value in given.items():
        *place, last = name.split(".")
        part: Any = config
        for field in place:
            part = part[field]
        with part.ignore_type():
            part[last] = value
    return config


@pytest.fixture(scope="module")
def base(files):
    return settings.load_base(tiny(files))


def studied(files, base, mode="both", **changes):
    config = tiny(files, mode, **changes)
    settings.check(config)
    settings.check_files(config)
    return settings.make_study(config, base, settings.world_of(config, base))


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """SFT at two rates, of which one is mad, and GRPO; what was said on stderr lies beside."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = tiny(
        files,
        **{
            "arms": ("sft", "grpo"), "seeds": (1,), "judge": "mine:graded",
            "learning_rates.sft": (1e-3, ENDLESS), "learning_rates.grpo": (1e-3,),
            "shift.harder": str(files / "harder.jsonl"), "prior.arc": str(files / "arc.jsonl"),
            "temperature": 0.8,
        },
    )  # fmt: skip
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.chdir(files)
        run_finetuning(config, str(workdir), ALONE)
    (workdir / "said").write_text(said.getvalue())
    yield workdir
    sys.modules.pop("mine")


@pytest.fixture(scope="module")
def said(finished):
    return (finished / "said").read_text()


@pytest.fixture(scope="module")
def lines(finished):
    return [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]


def test_every_run_is_measured_on_both_axes(lines):
    for line in lines:
        check_line(line)
        for name in ("new", "shift/harder", "prior", "prior/arc"):
            assert {f"{name}/accuracy", f"{name}/base_accuracy"} <= set(line), name
        assert "prior/kl_base_policy_nats" in line
        assert "new/kl_policy_base_nats" in line
    assert [line["step"] for line in lines] == [0, 2] * 3
    assert len({line["run"] for line in lines}) == 3
    last = lines[-1]
    assert last["arm"] == "grpo"
    assert 0 < last["train/reward"] < 1
    assert last["new/kl_base_policy_nats"] > 1e-6
    assert not last["diverged"]


def test_answers_are_scored_at_the_temperature_at_which_they_were_sampled(lines):
    """Each update is on-policy here, so that every ratio is 1 and nothing is clipped."""
    assert lines[-1]["train/ratio"] == pytest.approx(1, abs=1e-4)
    assert lines[-1]["train/clipped_high"] == lines[-1]["train/clipped_low"] == 0


def test_what_a_limit_truncated_is_not_right(lines):
    """The judge takes any answer for right; none that was truncated counts."""
    for line in lines:
        if not line["diverged"]:
            for place in ("new", "shift/harder", "prior/arc"):
                finished = 1 - line[f"{place}/answer_truncated"]
                assert line[f"{place}/accuracy"] == pytest.approx(finished)


def test_a_run_that_diverges_ends_and_says_so(lines, finished, said):
    ill = [line for line in lines if line["hyperparameters"]["learning_rate"] == ENDLESS]
    assert [line["diverged"] for line in ill] == [False, True]
    assert ill[1]["new/kl_base_policy_nats"] is None
    assert f"marked as diverged, by step 2: {ill[1]['run']}" in said
    assert f"{ill[1]['run']}: diverged" in summary(finished)


def test_the_questions_of_a_test_are_not_the_first_ones(finished):
    """A file sorted by subject would be measured by its first one."""
    assert sys.modules["mine"].SEEN[0] != [f"{n} + {n % 3}" for n in range(4)]


def test_a_base_that_ends_no_answer_is_remarked_on_once(said):
    """TRL's most reported trap: all are truncated, none is right, nothing is learnt."""
    assert said.count("new: the base ended none of its answers") == 1


def test_what_came_out_is_said_before_and_after(finished, lines):
    said = summary(finished)
    last = next(line for line in lines if line["arm"] == "grpo" and line["final"])
    before, after = last["new/base_accuracy"], last["new/accuracy"]
    assert f"{last['run']}: new/accuracy {before:.3g} -> {after:.3g}" in said
    assert f"report.py --results={finished / 'results.jsonl'} --out={finished}" in said


@pytest.mark.parametrize("left_out", ["prior", "new", "new and prior"])
def test_results_without_an_axis_have_a_report(finished, lines, left_out, tmp_path):
    """Claims that lack their measurement are left out, and the page is written."""
    kept = [
        {name: x for name, x in line.items() if name.split("/")[0] not in left_out.split()}
        for line in lines
        if line["hyperparameters"]["learning_rate"] != ENDLESS
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    answer, page = report.build([tmp_path / "results.jsonl"], tmp_path, resamples=9)
    assert page.stat().st_size > 10_000
    assert "SFT" in answer or "no claim" in answer


# What a run is called.


def names(study):
    return [run.name for run in study.runs]


def test_runs_that_differ_in_what_is_learnt_have_different_names(files, base):
    ways: list[dict[str, Any]] = [
        {}, {"temperature": 0.5}, {"rows": 8}, {"prompts": 4}, {"lora.rank": 2}, {"steps": 3},
        {"warmup_steps": 2}, {"data.path": str(files / "harder.jsonl")}, {"data.system": "Think."},
        {"model": "another"}, {"methods.grpo.clip_high": 0.28}, {"template_variables.think": False},
        {"judge": "json:dumps"}, {"prior.arc": str(files / "arc.jsonl")}, {"top_k": 5},
    ]  # fmt: skip
    found = [name for changes in ways for name in names(studied(files, base, **changes))]
    assert len(set(found)) == len(found) == 2 * len(ways)


def test_how_a_run_is_carried_out_does_not_change_its_name(files, base):
    plain = names(studied(files, base))
    for changes in ({"mesh.data": 0}, {"tensorboard": True}, {"log_every": 7}, {"profile": 1}):
        assert names(studied(files, base, "both", **changes)) == plain


# Files and templates as people have them.


def write(path, *lines, raw=b""):
    path.write_bytes(raw or "".join(json.dumps(line) + "\n" for line in lines).encode())
    return str(path)


GOOD = {"question": "1 + 1", "answer": "2"}
CONVERSATION = [("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"), ("assistant", "4")]
TURNS = {"messages": [{"role": role, "content": text} for role, text in CONVERSATION]}
RAW = {
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "gzip": gzip.compress(json.dumps(GOOD).encode()),
    "a line separator": '{"question": "a\u2028b\u2029c\u0085d", "answer": "2"}\n'.encode(),
    "carriage returns": b'{"question": "a", "answer": "2"}\r\n\r\n{"question": "b", "answer": 3}',
}


@pytest.mark.parametrize("what", RAW)
def test_files_that_are_nearly_plain_are_read(files, base, tmp_path, what):
    path = write(tmp_path / "odd", raw=RAW[what])
    study = studied(files, base, **{"data.path": path, "prior.odd": path})
    assert [m.prefix for m in study.arms["sft"].world.measurements] == [
        "new",
        "new",
        "prior",
        "prior",
    ]


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "X"}}}
MISTAKES = {
    "half a character": ({"question": "caf\udce9", "answer": "2"}, "surrogate"),
    "begins with an answer": ({"messages": TURNS["messages"][1:]}, "message 0 is the assistant's"),
    "no field": ({"prompt": "a", "answer": "2"}, "it has no field 'question', but 'prompt'"),
    "nothing said": ({"question": "a", "answer": " "}, "the answer is empty"),
}
UNREAD = {
    "tools": {"tools": [CALL], **TURNS},
    "tool_calls": {
        "messages": [
            TURNS["messages"][0], {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "name": "weather", "content": "5 degrees"}, TURNS["messages"][3],
        ]
    },
    "reasoning_content": {**GOOD, "reasoning_content": "Well."},
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
@pytest.mark.parametrize("field", ["data.path", "data.test_path", "prior.arc", "shift.harder"])
def test_a_mistake_in_a_file_names_field_and_line(files, base, tmp_path, what, field):
    line, message = MISTAKES[what]
    path = write(tmp_path / "wrong.jsonl", GOOD, GOOD, GOOD, line)
    with pytest.raises(ValueError, match=f"config.{field}={path!r} line 4 .*{re.escape(message)}"):
        studied(files, base, "sft", **{field: path})


@pytest.mark.parametrize("what", UNREAD)
def test_what_the_template_would_drop_is_refused(files, base, tmp_path, what):
    """Else the model learns to say nothing where the data call a tool."""
    path = write(tmp_path / "told.jsonl", GOOD, UNREAD[what])
    with pytest.raises(
        ValueError, match=f"{path} line 2: .* has '{what}', which the chat template"
    ):
        studied(files, base, "sft", **{"data.path": path})


def test_a_file_that_is_not_there_is_refused_before_the_model_is_read(files, tmp_path):
    for field in ("data.path", "data.test_path", "prior.arc", "shift.harder"):
        config = tiny(files, model="/nowhere/at/all", **{field: "nowhere.jsonl"})
        with pytest.raises(ValueError, match=rf"config\.{field}='nowhere.jsonl' is no file"):
            run_finetuning(config, str(tmp_path / "run"), ALONE)
    assert not (tmp_path / "run").exists()


PROSE = "It is so or so, as I see it, or as it is to you."


def test_truths_that_no_answer_can_match_are_said(files, base, tmp_path, capsys):
    path = write(tmp_path / "prose.jsonl", GOOD, GOOD, {"question": "a", "answer": PROSE})
    studied(files, base, **{"prior.arc": path})
    said = capsys.readouterr().out
    assert f"config.prior.arc={path!r}: 1 of 3 truths can never be right" in said
    assert "line 3" in said
    only = write(tmp_path / "only.jsonl", {"question": "a", "answer": PROSE})
    with pytest.raises(ValueError, match=rf"config\.prior\.arc={only!r}: no truth can be judged"):
        studied(files, base, **{"prior.arc": only})


def test_conversations_without_a_final_answer_can_be_imitated(files, base, tmp_path, capsys):
    path = write(tmp_path / "prose.jsonl", {"question": "a", "answer": PROSE})
    capsys.readouterr()
    assert len(taught(studied(files, base, "sft", **{"data.path": path}))) == 1
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="no truth can be judged"):
        studied(files, base, "grpo", **{"data.path": path})


@pytest.fixture(scope="module")
def spoken(base, tmp_path_factory):
    """The base, spoken to by another template."""

    def spoken(template, family="qwen"):
        folder = tmp_path_factory.mktemp("chat")
        tiny_chats.save(folder, family, template)
        return dataclasses.replace(base, chat=load_chat(folder))

    return spoken


def taught(study):
    (arm,) = study.arms.values()
    train: Any = arm.world.train
    return train.questions


def test_a_template_that_forgets_thoughts_makes_each_answer_an_example(files, spoken, tmp_path):
    """Qwen3's: a conversation of several turns is no beginning of a longer one."""
    path = write(tmp_path / "turns.jsonl", TURNS)
    base = spoken(tiny_chats.THINKING)
    found = taught(studied(files, base, "sft", **{"data.path": path, "data.test_path": ""}))
    assert [question.truth for question in found] == ["2", "4"]
    assert all(question.conversation.mask.any() for question in found)


def test_a_template_that_can_only_be_prompted_is_enough_for_rewards(files, spoken):
    """R1's distilled models: prompts open <think>, and answers are shown without."""
    template = tiny_chats.CHATML.replace(
        "{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant\\n<think>\\n' }}"
    )
    assert template != tiny_chats.CHATML
    base = spoken(template)
    assert len(taught(studied(files, base, "grpo"))) == 24
    with pytest.raises(
        ValueError, match=r"train.jsonl line 1: the chat template writes the prompt"
    ):
        studied(files, base, "sft")


def copied(files, folder):
    shutil.copytree(files / "model", folder)
    return folder


def test_a_base_model_is_spoken_to_by_a_plain_template(files, tmp_path):
    folder = copied(files, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"no chat template.*config\.chat\.template.*'plain'"):
        settings.load_base(tiny(files, model=str(folder)))
    plain = settings.load_base(tiny(files, model=str(folder), **{"chat.template": "plain"}))
    found = taught(studied(files, plain, "sft"))[0]
    assert plain.decode(found.conversation.tokens) == "0 + 0\nIt is 0."


def test_a_token_beyond_the_embedding_is_named(files, tmp_path):
    folder = copied(files, tmp_path / "resized")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "vocab_size": 300}))
    with pytest.raises(ValueError, match=r"the tokenizer has .* and the model has 300 ids"):
        settings.load_base(tiny(files, model=str(folder)))


def test_adapters_that_could_not_be_saved_are_refused_before_training(files):
    config = tiny(files, **{"lora.rank": 2, "lora.targets": (".*",)})
    with pytest.raises(ValueError, match="embed"):
        settings.load_base(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates.gpro": (1e-3,)}, "'gpro'"),
        ({"learning_rates.sft": (0.0,)}, "config.learning_rates.sft=(0.0,) must be"),
        ({"methods.grpo.clip_hgh": 0.3}, "clip_hgh"),
        ({"methods.grpo": 0.3}, "config.methods.grpo=0.3 is no knob; write config.methods.grpo."),
        ({"clip_by_global_norm": 0.0}, "config.clip_by_global_norm=0.0 must be above 0"),
        ({"warmup_steps": -1}, "config.warmup_steps=-1 must not be negative"),
        ({"weight_decay": float("nan")}, "config.weight_decay=nan must not be negative"),
        ({"lora.rank": 2, "lora.alpha": 0.0}, "config.lora.alpha=0.0 must be above 0"),
        ({"prior.a.b": "file"}, "config.prior.a="),
        ({"seeds": (0, 0)}, "seeds=(0, 0)"),
        ({"arms": ("sft", "sft")}, "'sft'"),
        ({"arms": ()}, "no arm"),
        ({"arms": ("ppoo",)}, "ppoo"),
        ({"arms": ("dpo",), "learning_rates.dpo": (1e-3,)}, '"rejected"'),
        ({"samples": 1}, "samples=1"),
        ({"rows": 5, "minibatches": 2}, "rows=5"),
        ({"checkpoints": (0.5,)}, "checkpoints=(0.5,)"),
        ({"checkpoints": ()}, "checkpoints=()"),
        ({"row_buckets": (8,)}, "none of 24 examples fits"),
        ({"judge": "nowhere:f"}, "config.judge='nowhere:f' cannot be imported"),
        ({"judge": "json:nothing"}, "config.judge='json:nothing' cannot be imported"),
        ({"judge": "json"}, "config.judge='json' cannot be imported"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_compiled(files, base, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        studied(files, base, **changes)
