"""Examples from files: what is read, what is passed on, and that all else is named by its line."""

import dataclasses
import gzip
import json

import pytest

from rlrazor.tasks.questions.lines import Example, check_truths, choose, read_examples

GOOD = '{"question": "1 + 1", "answer": "2"}'


def write(tmp_path, *lines):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return path


def read(path, system="", **names):
    names = {"asked": "question", "answer": "answer"} | names
    return read_examples(path, field="config.prior.arc", system=system, **names)


def one(tmp_path, **record):
    (example,) = read(write(tmp_path, json.dumps(record)))
    return example


def talk(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def test_both_kinds_of_line_are_read(tmp_path):
    messages = talk(("user", "hi"), ("assistant", "yes?"), ("user", "2 + 2"), ("assistant", "4"))
    path = write(
        tmp_path,
        json.dumps({"question": "1 + 1", "answer": "2", "id": 3, "source": {"page": 4}}),
        "",
        json.dumps({"messages": messages}),
    )
    plain, talked = read(path)
    assert plain == Example(talk(("user", "1 + 1")), "2", where=f"{path} line 1")
    assert talked == Example(messages[:3], "4", where=f"{path} line 3")
    assert talked.messages == messages
    assert read(path, system="Think.")[0].asked[0] == {"role": "system", "content": "Think."}


def test_a_system_message_stays_alone(tmp_path):
    messages = talk(("system", "Short."), ("user", "hi"), ("assistant", "ho"))
    (example,) = read(write(tmp_path, json.dumps({"messages": messages})), system="Think.")
    assert example.asked == messages[:2]


def test_fields_may_have_other_names(tmp_path):
    path = write(tmp_path, '{"q": "1 + 1", "chosen": "2", "rejected": "3"}')
    (example,) = read(path, asked="q", answer="chosen")
    assert (example.answer, example.rejected) == ("2", "3")
    (example,) = read(path, asked="q", answer="rejected")
    assert (example.answer, example.rejected) == ("3", None)


@pytest.mark.parametrize(("value", "text"), [(2, "2"), (2.5, "2.5"), (-7, "-7"), (1.0, "1.0")])
def test_numbers_are_texts(tmp_path, value, text):
    assert one(tmp_path, question="q", answer=value).answer == text


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c", "\r"])
def test_only_line_feeds_end_a_line(tmp_path, character):
    text = json.dumps({"question": f"a{character}b", "answer": "2"}, ensure_ascii=False)
    text = text.replace("\\r", "\\r").replace("\\u000b", "\\u000b")
    first, second = read(write(tmp_path, text, GOOD))
    assert first.asked[0]["content"] == f"a{character}b"
    assert second.where.endswith("line 2")


def test_carriage_returns_and_a_byte_order_mark_are_no_matter(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n{GOOD}".encode())
    assert [example.answer for example in read(path)] == ["2", "2"]


def test_gzip_is_told_by_its_bytes(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert read(path)[0].answer == "2"
    path.write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(ValueError, match=r"config.prior.arc='.*data.jsonl' cannot be read"):
        read(path)


def test_what_a_template_reads_is_passed_on(tmp_path):
    call = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "X"}}}]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    messages = [
        {"role": "user", "content": "Weather in X?", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": call, "reasoning_content": "hm"},
        {"role": "tool", "name": "weather", "tool_call_id": "1", "content": "5 degrees"},
        {"role": "assistant", "content": "5 degrees.", "thinking": "easy"},
    ]
    example = one(tmp_path, tools=tools, messages=messages, rejected="6 degrees.", id=7)
    assert example.tools == tools
    assert example.rejected == "6 degrees."
    assert example.messages == [messages[0], {**messages[1], "content": ""}, *messages[2:]]
    last = one(tmp_path, messages=messages[:2])
    assert last.answer == ""
    assert last.messages[-1]["tool_calls"] == call
    thought = one(tmp_path, question="q", answer="a", reasoning_content="hm", tools=None)
    assert thought.messages[-1] == {"role": "assistant", "content": "a", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "Expecting property name"),
        ("[]", "JSON list"),
        ("7", "JSON int"),
        ("null", "JSON NoneType"),
        ('"a"', "JSON str"),
        ("[" * 100_000, "recursion"),
        ('{"question": "1 + 1"}', "no field 'answer', but 'question'"),
        ('{"question": "1 + 1", "answer": null}', "a text or a number, not null"),
        ('{"question": "1 + 1", "answer": true}', "a text or a number, not true"),
        ('{"question": "1 + 1", "answer": ["2"]}', "a text or a number"),
        ('{"question": "1 + 1", "answer": NaN}', "nan, which is no number"),
        ('{"question": "1 + 1", "answer": 1e999}', "inf, which is no number"),
        ('{"question": "1 + 1", "answer": ""}', "the answer is empty"),
        ('{"question": "1 + 1", "answer": " \\n"}', "the answer is empty"),
        ('{"question": "", "answer": "2"}', "'question' must be a text that is not empty"),
        ('{"question": 3, "answer": "2"}', "'question' must be a text"),
        ('{"question": "Which?", "choices": ["a", "b"], "answer": 1}', "a place in 'choices'"),
        ('{"question": "q", "answer": "2", "answer": "3"}', "the field 'answer' twice"),
        ('{"question": "caf\\udce9", "answer": "2"}', "surrogate '\\udce9'"),
        ('{"question": "q", "answer": "\\ud83d"}', "surrogate '\\ud83d'"),
        ('{"question": "q", "answer": "2", "system": "Be short."}', "'system' would be lost"),
        ('{"question": "q", "answer": "2", "functions": []}', "'functions' would be lost"),
        ('{"question": "q", "answer": "2", "tools": "f"}', "'tools' must be a list"),
        ('{"question": "q", "answer": "2", "rejected": 3}', "'rejected' must be a text"),
        ('{"messages": []}', "two or more"),
        ('{"messages": {"role": "user"}}', "must be a list"),
        ('{"messages": ["hi", "ho"]}', "must be a list of two or more objects"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "two or more"),
        (json.dumps({"messages": talk(("user", "a"), ("user", "b"))}), "must be the assistant's"),
        (json.dumps({"messages": talk(("human", "a"), ("assistant", "b"))}), 'role "human"'),
        (
            json.dumps({"messages": talk(("assistant", "a"), ("user", "b"), ("assistant", "c"))}),
            "message 0 is the assistant's",
        ),
        (json.dumps({"messages": talk(("user", "a"), ("assistant", " "))}), "answer is empty"),
        (
            '{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}',
            "message 0 has the content null",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, '
            '{"role": "assistant", "content": "b", "weight": 0}]}',
            "message 1 has the field 'weight', which would be lost",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, '
            '{"role": "assistant", "content": "b"}]}',
            "message 0 has the content",
        ),
        (
            '{"messages": [{"role": "user", "content": "a", "thinking": "b"}, '
            '{"role": "assistant", "content": "b"}]}',
            "only the assistant's has",
        ),
        (
            json.dumps({"messages": talk(("system", "a"), ("assistant", "b"))}),
            "message 1 is the assistant's",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, says):
    path = write(tmp_path, GOOD, line)
    with pytest.raises(
        ValueError, match=r"^config.prior.arc='.*data.jsonl' line 2 is neither"
    ) as e:
        read(path)
    assert says in str(e.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (f"[{GOOD}]".encode(), "is one JSON array"),
        (f"\n [\n{GOOD},\n{GOOD}]".encode(), "is one JSON array"),
        (f"{GOOD}\n{GOOD.replace('1', 'é')}".encode("latin-1"), "line 2 is not UTF-8 (byte 0xe9)"),
        (GOOD.encode("utf-16"), "line 1 is not UTF-8 (byte 0xff)"),
        (b"\x28\xb5\x2f\xfd0000", "compressed or binary"),
        (b"", "has no examples"),
        (b"\n\n \n", "has no examples"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, data, says):
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^config.prior.arc='.*data.jsonl'") as error:
        read(path)
    assert says in str(error.value)


def test_a_missing_file_and_no_file_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"config.prior.arc='.*none.jsonl' cannot be read"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"config.prior.arc='.*' cannot be read"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"config.prior.arc='' is empty"):
        read("")


def examples(*answers):
    return [Example([], x, where=f"f.jsonl line {n}") for n, x in enumerate(answers, start=1)]


def test_truths_that_can_never_be_right_are_counted_by_reason_and_line():
    reasons = {"a": "it is a", "b": "it is b"}
    found = check_truths(examples("a", "2", "b", "a"), reasons.get)
    assert found == [
        "2 of 4 truths can never be right, since it is a: f.jsonl line 1, 4",
        "1 of 4 truths can never be right, since it is b: f.jsonl line 3",
    ]
    assert check_truths(examples("2"), reasons.get) == []
    assert check_truths([], reasons.get) == []
    (long,) = check_truths(examples(*"a" * 30, "2"), reasons.get)
    assert long.endswith("line 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more")
    with pytest.raises(ValueError, match=r"no truth can be judged.*it is a: f.jsonl line 1, 2"):
        check_truths(examples("a", "a"), reasons.get)


def test_a_choice_is_seeded_ordered_and_nested():
    many = examples(*map(str, range(100)))
    few, more = choose(many, 10, seed=0), choose(many, 20, seed=0)
    assert few == choose(many, 10, seed=0) != choose(many, 10, seed=1)
    assert few != many[:10]
    assert len(few) == 10
    assert all(example in more for example in few)
    assert [many.index(x) for x in more] == sorted(many.index(x) for x in more)
    assert choose(many, 1000, seed=0) == many
    assert choose(many, 0, seed=0) == []
    with pytest.raises(ValueError, match="count=-1 is negative"):
        choose(many, -1, seed=0)


def test_every_example_may_be_chosen():
    many = examples(*"abcd")
    chosen = [x.answer for seed in range(200) for x in choose(many, 1, seed=seed)]
    assert all(chosen.count(letter) > 20 for letter in "abcd")


def test_an_example_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        examples("a")[0].answer = "b"  # type: ignore[misc]
