"""A chat's tokenizer and template are those of its folder, on every day and by every class."""

import datetime
import json
import sys

import numpy as np
import pytest

pytest.importorskip("transformers")

from rlrazor.runtime.chat import load_chat, prompt, prompts, render
from tests.oracles import tiny_chats as tiny
from tests.oracles.tiny_tokenizers import byte_fallback

TALK = [
    {"role": "user", "content": "What is 8/(3-8/3)? 日本"},
    {"role": "assistant", "content": "It is 24,\n\n  naïve one. "},
    {"role": "user", "content": "\n J counts 11"},
    {"role": "assistant", "content": "\n\nQ counts 12"},
]


def segments(chat, rendered):
    """Decoded runs of tokens that are alike chosen."""
    edges = np.flatnonzero(np.diff(rendered.chosen)) + 1
    for ids, chosen in zip(
        np.split(rendered.tokens, edges), np.split(rendered.chosen, edges), strict=True
    ):
        yield chat.tokenizer.decode(ids, skip_special_tokens=False), bool(chosen[0])


def test_a_template_may_be_given(tmp_path):
    tiny.save(tmp_path, "qwen", None)
    with pytest.raises(ValueError, match="has no chat template, as base models have none; give"):
        load_chat(tmp_path)
    chat = load_chat(tmp_path, template=tiny.CHATML)
    assert chat.template == tiny.CHATML
    assert chat.tokenizer.decode(prompt(chat, TALK[:1])).endswith("<|im_start|>assistant\n")


def test_folders_without_a_tokenizer_are_named(tmp_path):
    with pytest.raises(ValueError, match="has no tokenizer that can be read"):
        load_chat(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not a tokenizer.json that can be read"):
        load_chat(tmp_path)


def test_a_tokenizer_that_spells_by_its_neighbours_is_named(tmp_path):
    """One that puts a blank before whatever it is given."""
    import transformers

    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_fallback(prepend=True), eos_token="<|end|>"
    )
    wrapped.chat_template = (
        "{% for m in messages %}<|end|>{{ m.role + ':\n' + m.content }}{% endfor %}<|end|>"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    wrapped.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="spells a text differently where it begins"):
        load_chat(tmp_path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ValueError, match=r"need the transformers package: pip install 'rlrazor\[hub"
    ):
        load_chat(tmp_path)


DATED = tiny.LLAMA3.replace(
    "{{- bos_token }}",
    "{{- bos_token }}{%- if strftime_now is defined %}"
    "{{- 'Day: ' + strftime_now('%d %b %Y') + strftime_now( \"%H:%M\" ) }}{%- endif %}"
    "{{- ' told ' + date_string | default('nothing') + '\\n' }}",
)


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        (None, "26 Jul 2024"),
        ("2025-03-01", "01 Mar 2025"),
        ("1 Mar 2025", "01 Mar 2025"),
        (datetime.date(1999, 12, 31), "31 Dec 1999"),
    ],
)
def test_prompts_do_not_depend_on_the_day(tmp_path, monkeypatch, date, expected):
    import transformers.utils.chat_template_utils as clock

    tiny.save(tmp_path, "llama", DATED)
    found = set()
    for today in ((2026, 11, 25, 3, 7), (2026, 11, 26, 4, 8)):

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime(*today)  # noqa: B023

        monkeypatch.setattr(clock, "datetime", Clock)
        chat = load_chat(tmp_path, date=date)
        found.add(chat.tokenizer.decode(prompt(chat, TALK[:1])).split("\n")[0])
    assert found == {f"<|begin_of_text|>Day: {expected}00:00 told {expected}"}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("{{ strftime_now(form) }}", "the day"),
        ("{%- set now = strftime_now %}{{ now('%Y') }}", "the day"),
        ("{{ ['a', 'b'] | random }}", "chance"),
        ("{{ lipsum(1) }}", "chance"),
    ],
)
def test_templates_that_ask_their_surroundings_are_named(tmp_path, said, what):
    tiny.save(tmp_path, "qwen", said + tiny.CHATML)
    with pytest.raises(ValueError, match=f"the chat template takes {what} where it is rendered"):
        load_chat(tmp_path)
    tiny.save(tmp_path, "qwen", "{# " + said.replace("#", "") + " #}" + tiny.CHATML)
    assert load_chat(tmp_path).end is not None


def test_a_day_that_is_none_is_named(tmp_path):
    tiny.save(tmp_path, "qwen", tiny.CHATML)
    with pytest.raises(ValueError, match="date='yesterday' is no day; write it as '2024-07-26'"):
        load_chat(tmp_path, date="yesterday")


def test_a_template_may_be_a_file(tmp_path):
    tiny.save(tmp_path, "qwen", None)
    path = tmp_path / "mine.jinja"
    path.write_text(tiny.CHATML)
    for given in (path, str(path)):
        assert load_chat(tmp_path, template=given).template == tiny.CHATML
    with pytest.raises(ValueError, match=r"template 'none.jinja' cannot be read .* or 'plain'"):
        load_chat(tmp_path, template="none.jinja")


@pytest.mark.parametrize("begins", [False, True])
def test_the_plain_template_is_question_and_answer(tmp_path, begins):
    from tokenizers import Tokenizer, processors

    tokenizer = tiny.save(tmp_path, "llama", None, eos="<|end_of_text|>")
    if begins:  # as Llama's own: the tokenizer itself puts it there
        raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        bos = "<|begin_of_text|>"
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
        raw.save(str(tmp_path / "tokenizer.json"))
    chat = load_chat(tmp_path, template="plain")
    first = "<|begin_of_text|>" if begins else ""
    assert chat.tokenizer.decode(prompt(chat, TALK[:1])) == f"{first}{TALK[0]['content']}\n"
    expected = [
        (f"{first}{TALK[0]['content']}\n", False),
        (TALK[1]["content"] + "<|end_of_text|>", True),
        (TALK[2]["content"] + "\n", False),
        (TALK[3]["content"] + "<|end_of_text|>", True),
    ]
    assert list(segments(chat, render(chat, TALK))) == expected
    assert chat.stop_ids == (chat.end,) == (tokenizer.eos_token_id,)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": None}))
    with pytest.raises(ValueError, match="names no eos_token, by which the template 'plain' ends"):
        load_chat(tmp_path, template="plain")


SPELLINGS = [*(t["content"] for t in TALK), "a  b   c    d", "12345678", "\n\n\n a\r\n", "é👩 日本"]


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "LlamaTokenizerFast"),
        ("llama", "LlamaTokenizer"),
        ("qwen2", "PreTrainedTokenizerFast"),
        ("qwen2", "Qwen2Tokenizer"),
        ("qwen3", "Qwen2TokenizerFast"),
    ],
)
def test_ids_are_those_of_the_file_whatever_class_is_named(tmp_path, family, kind, name):
    from tokenizers import Tokenizer

    tiny.save(tmp_path, family, {"qwen": tiny.CHATML, "llama": tiny.LLAMA3}[family])
    path = tmp_path / "tokenizer_config.json"
    told = {k: v for k, v in json.loads(path.read_text()).items() if k != "backend"}
    path.write_text(json.dumps(told | {"tokenizer_class": name}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    chat = load_chat(tmp_path)
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in SPELLINGS:
        ids = raw.encode(text, add_special_tokens=False).ids
        assert chat.tokenizer.encode(text, add_special_tokens=False) == ids
        (asked,) = prompts(chat, [[{"role": "user", "content": f"So: {text}!"}]])
        inner = raw.encode(f"So: {text}!", add_special_tokens=False).ids[1:]
        assert any(asked[n : n + len(inner)] == inner for n in range(len(asked)))


def test_a_tokenizer_that_the_config_changes_is_named(tmp_path, monkeypatch):
    import transformers
    from tokenizers import pre_tokenizers

    tiny.save(tmp_path, "qwen", tiny.CHATML)
    changed = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    monkeypatch.setattr(
        transformers.PreTrainedTokenizerFast, "from_pretrained", lambda *_, **__: changed
    )
    with pytest.raises(ValueError, match=r"its tokenizer_config.json changes the tokenizer"):
        load_chat(tmp_path)
