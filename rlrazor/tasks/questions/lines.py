"""Examples from JSON lines; whatever is wrong is named by config field, file and line."""

import dataclasses
import gzip
import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Message = dict[str, Any]  # {"role": ..., "content": ...} and what else a chat template reads

_ROLES = ("system", "developer", "user", "assistant", "tool")
_SAID = ("tool_calls", "reasoning_content", "thinking")  # of an assistant's message
_FIELDS = ("role", "content", "name", "tool_call_id", *_SAID)
# Fields of a line that would change what is rendered, and that nobody passes on.
_REFUSED = ("system", "functions", "documents", "chat_template_kwargs", "images", "image")
_NAMED = 10  # line numbers in a sentence


@dataclasses.dataclass(frozen=True)
class Example:
    """A conversation whose last message is the assistant's."""

    asked: list[Message]
    answer: str
    tools: list[Any] | None = None  # JSON schemas, for the chat template
    where: str = ""  # "FILE line N"
    rejected: str | None = None  # a wrong answer to the same, for methods that learn from pairs
    said: Message = dataclasses.field(default_factory=dict)  # more of the last message: tool_calls

    @property
    def messages(self) -> list[Message]:
        return [*self.asked, {"role": "assistant", "content": self.answer, **self.said}]


def read_examples(
    path: str | Path, *, field: str, asked: str, answer: str, system: str
) -> list[Example]:
    """Examples of a file of JSON lines, which may be gzip'd.

    A line is `{"messages": [{"role", "content"}, ...]}`, the last one the assistant's, or has the
    fields named `asked` and `answer`. `system` is put before a conversation that has no such
    message; "" puts nothing. `tools` and `rejected` of a line are kept, and of a message all that
    a chat template reads; other fields of a line are ids and the like. `field` is the field of the
    config that names the file.

    Lines end at a line feed only: JSON strings may hold all else that Python takes for a line's
    end. Raises ValueError for a file that cannot be read, or a line that is neither.
    """
    name = f"{field}={str(path)!r}"
    text = _text(path, name)
    if text.lstrip().startswith("["):
        raise ValueError(
            f"{name} is one JSON array, not JSON lines; write one object a line (`jq -c '.[]'`)"
        )
    examples = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(" \t\r"):
            try:
                example = _example(_record(line), asked, answer)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{name} line {number} is neither {{'messages': [...]}} that end with the "
                    f"assistant's nor an object with the texts {asked!r} and {answer!r}: {error}"
                ) from error
            if system and example.asked[0]["role"] not in ("system", "developer"):
                first: Message = {"role": "system", "content": system}
                example = dataclasses.replace(example, asked=[first, *example.asked])
            examples.append(dataclasses.replace(example, where=f"{path} line {number}"))
    if not examples:
        raise ValueError(f"{name} has no examples; give a file of JSON lines")
    return examples


def check_truths(examples: Sequence[Example], unreadable: Callable[[str], str | None]) -> list[str]:
    """Sentences on the truths that can never be right, by reason and line.

    `unreadable` is the judge's: why a truth cannot be judged, or None. Raises ValueError if none of
    the truths can.
    """
    lines: dict[str, list[str]] = {}
    for example in examples:
        reason = unreadable(example.answer)
        if reason is not None:
            lines.setdefault(reason, []).append(example.where)
    sentences = []
    for reason, places in lines.items():
        named = ", ".join(places[:1] + [place.rpartition(" ")[2] for place in places[1:_NAMED]])
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        sentences.append(
            f"{len(places)} of {len(examples)} truths can never be right, since {reason}: "
            f"{named}{more}"
        )
    if examples and sum(map(len, lines.values())) == len(examples):
        raise ValueError(f"no truth can be judged. {'; '.join(sentences)}")
    return sentences


def choose(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` examples drawn by the seed, in the order of the file; all, if there are no more.

    Not the first ones: a file sorted by subject would be measured by its first subject. A smaller
    choice is part of a larger one with the same seed.
    """
    if count < 0:
        raise ValueError(f"count={count} is negative; give a number of examples")
    drawn = np.random.default_rng(seed).permutation(len(examples))[:count]
    return [examples[i] for i in sorted(drawn)]


def _text(path: str | Path, name: str) -> str:
    if not str(path):
        raise ValueError(f"{name} is empty; give a file of JSON lines")
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name} cannot be read ({error}); give a file of JSON lines") from error
    if data.startswith((b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"PAR1")):
        raise ValueError(f"{name} is compressed or binary; give JSON lines, as text or gzip'd")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name} line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); convert the file, "
            "for instance `iconv -f latin1 -t utf-8`"
        ) from error


def _record(line: str) -> dict[str, Any]:
    record = json.loads(line, object_pairs_hook=_object)
    if not isinstance(record, dict):
        raise ValueError(f"it is a JSON {type(record).__name__}, not an object")
    if "\\ud" in line.lower() or not line.isascii():
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            lone = ascii(error.object[error.start])
            raise ValueError(f"it has half a character, the surrogate {lone}, alone") from error
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the field {twice!r} twice")
    return found


def _example(record: dict[str, Any], asked: str, answer: str) -> Example:
    for name in _REFUSED:
        if name in record and name not in (asked, answer):
            raise ValueError(
                f"the field {name!r} would be lost; write it into the messages, or remove it"
            )
    if "messages" in record:
        messages = _messages(record["messages"])
    else:
        messages = _asked_and_answered(record, asked, answer)
    *before, last = messages
    if not last["content"].strip() and not last.get("tool_calls"):
        raise ValueError("the answer is empty")
    tools = record.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(map(_is_object, tools))):
        raise ValueError("'tools' must be a list of objects")
    rejected = record.get("rejected") if "rejected" not in (asked, answer) else None
    if rejected is not None and (not isinstance(rejected, str) or not rejected.strip()):
        raise ValueError(f"'rejected' must be a text that is not empty, not {_short(rejected)}")
    said = {name: last[name] for name in last if name not in ("role", "content")}
    return Example(before, last["content"], tools or None, "", rejected, said)


def _asked_and_answered(record: dict[str, Any], asked: str, answer: str) -> list[Message]:
    for name in (asked, answer):
        if name not in record:
            raise ValueError(
                f"it has no field {name!r}, but {', '.join(map(repr, record)) or 'none'}"
            )
    truth = record[answer]
    listed = next((name for name in ("choices", "options") if name in record), None)
    if isinstance(truth, int) and listed is not None and isinstance(record[listed], list | dict):
        raise ValueError(
            f"{answer!r} is a place in {listed!r}, which is not asked; write the choices into "
            f"{asked!r} and the letter as {answer!r}"
        )
    last = {"role": "assistant", "content": _as_text(answer, truth)}
    last |= {name: record[name] for name in _SAID if name in record}
    question = record[asked]
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{asked!r} must be a text that is not empty, not {_short(question)}")
    return _messages([{"role": "user", "content": question}, last])


def _as_text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name!r} must be a text or a number, not {_short(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name!r} is {value}, which is no number")
    return str(value)


def _messages(messages: Any) -> list[Message]:
    if not isinstance(messages, list) or len(messages) < 2 or not all(map(_is_object, messages)):
        raise ValueError("'messages' must be a list of two or more objects")
    kept = [_message(number, message) for number, message in enumerate(messages)]
    if kept[-1]["role"] != "assistant":
        raise ValueError("the last message must be the assistant's")
    first = next(m for m in kept if m["role"] not in ("system", "developer"))
    if first["role"] != "user":
        raise ValueError(
            f"message {kept.index(first)} is the {first['role']}'s; the first one behind the "
            "system's must be the user's"
        )
    return kept


def _message(number: int, message: dict[str, Any]) -> Message:
    """As it is, but for fields that are null; what no template reads is refused."""
    kept = {name: value for name, value in message.items() if value is not None}
    unknown = [name for name in kept if name not in _FIELDS]
    if unknown:
        raise ValueError(
            f"message {number} has the field {unknown[0]!r}, which would be lost; known are "
            f"{', '.join(_FIELDS)}"
        )
    if kept.get("role") not in _ROLES:
        raise ValueError(
            f"message {number} has the role {_short(message.get('role'))}; known are "
            f"{', '.join(_ROLES)}"
        )
    if kept.get("tool_calls"):
        kept.setdefault("content", "")
    if not isinstance(kept.get("content"), str):
        raise ValueError(
            f"message {number} has the content {_short(message.get('content'))}, not a text"
        )
    calls = kept.get("tool_calls", [])
    if not isinstance(calls, list) or not all(map(_is_object, calls)):
        raise ValueError(f"message {number} has 'tool_calls' that are not a list of objects")
    wrong = [name for name in _SAID if name in kept and kept["role"] != "assistant"]
    if wrong:
        raise ValueError(f"message {number} has {wrong[0]!r}, which only the assistant's has")
    texts = [name for name in _FIELDS if name != "tool_calls" and name in kept]
    if not all(isinstance(kept[name], str) for name in texts):
        raise ValueError(f"message {number}: {', '.join(texts)} must be texts")
    return kept


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
