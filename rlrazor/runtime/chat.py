"""Conversations to token ids by a chat template, and the mask of what the assistant says."""

import dataclasses
import datetime
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from rlrazor.runtime.chat_source import read_date, read_template, read_tokenizer
from rlrazor.runtime.chat_text import Chat, Messages, encode, encode_batch, fill, hide
from rlrazor.runtime.hub import find_model
from rlrazor.runtime.tensor_files import read_json

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")  # where a template says what is generated
PROBE = [
    {"role": "user", "content": "How many,  12 or 3?\n\nSay."},
    {"role": "assistant", "content": "Both: 12\n and 3."},
]
NOT_VARIABLES = ("messages", "self", "conversation", "kwargs")


class HistoryError(ValueError):
    """A template shows what came before otherwise than it was when the assistant answered."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A conversation as a model reads it."""

    tokens: np.ndarray  # i32[T]
    chosen: np.ndarray  # bool[T] said by the assistant, the token that ends its turn included


def load_chat(
    source: str | Path,
    *,
    template: str | Path | None = None,
    date: str | datetime.date | None = None,
    variables: Mapping[str, Any] | None = None,
) -> Chat:
    """Tokenizer and template of a folder or hub id.

    `template` is another one for it: a Jinja file, its text, or "plain" (question, line break,
    answer, end of text) for base models. `date` is what a template that asks for the day is told,
    26 July 2024 unless given. `variables` are the template's own, such as {"enable_thinking":
    False}. ValueError if there is no tokenizer or template, if nothing ends an answer, or if the
    tokenizer cannot spell an answer on its own.
    """
    folder = find_model(source)
    tokenizer, day = read_tokenizer(folder), read_date(date)
    text = read_template(tokenizer, folder, template, day)
    taken = {*inspect.signature(tokenizer.apply_chat_template).parameters, *NOT_VARIABLES}
    for name in (variables or {}).keys() & (taken - {"tools", "documents"}):
        raise ValueError(f"{name!r} is no variable of the template's own; leave it out")
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special}
    special |= set(tokenizer.all_special_tokens)
    longest_first = sorted(special, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    told = {"date_string": day.strftime("%d %b %Y"), **(variables or {})}
    chat = Chat(tokenizer, text, pattern, told)
    _check_spelling(chat, folder)
    end = _end_of_turn(chat)
    return dataclasses.replace(chat, end=end, stop_ids=_stop_ids(chat, folder, end))


def render(chat: Chat, messages: Messages, **variables: Any) -> Rendered:
    """A whole conversation and the mask of what the assistant says in it.

    `variables` are the template's own, such as `tools` or `enable_thinking`, and trusted: special
    tokens in them stay special. Where the template marks what is generated, the mark counts, with
    the end of the turn. Elsewhere, a turn is what follows the prompt that would have asked for it;
    ValueError if what came before looks different there. The ids of an answer are those of its own
    text, never merged with the header before it.
    """
    shown, hidden = hide(chat, messages)
    if MARKED.search(chat.template):
        text, spans = _marked(chat, shown, variables)
    else:
        text = fill(chat, shown, variables)
        said = [n for n, message in enumerate(shown) if message.get("role") == "assistant"]
        spans = [_turn(chat, shown, n, text, variables) for n in said]
    return _rendered(chat, text, spans, hidden)


def render_last(chat: Chat, messages: Messages, **variables: Any) -> Rendered:
    """A conversation that ends with an answer, and the mask of this answer alone.

    For templates that show earlier answers otherwise than they were given, without what was
    thought before them, say: each answer is then an example of its own.
    """
    shown, hidden = hide(chat, messages)
    if not shown or shown[-1].get("role") != "assistant":
        raise ValueError("the last message must be the assistant's; leave out what follows it")
    text = fill(chat, shown, variables)
    span = _turn(chat, shown, len(shown) - 1, text, variables)
    return _rendered(chat, text, [span], hidden)


def render_turns(chat: Chat, messages: Messages, **variables: Any) -> list[Rendered]:
    """Examples in which each of the assistant's answers is chosen once, after what it followed.

    The whole conversation where the template lets it be one example, else, where it shows earlier
    answers otherwise than they were given, one for each answer.
    """
    try:
        return [render(chat, messages, **variables)]
    except HistoryError:
        said = [n for n, message in enumerate(messages) if message.get("role") == "assistant"]
        return [render_last(chat, messages[: n + 1], **variables) for n in said]


def prompt(chat: Chat, messages: Messages, **variables: Any) -> np.ndarray:  # i32[T]
    """The conversation so far and the header of the assistant's next turn: what to sample after."""
    return np.array(prompts(chat, [messages], **variables)[0], np.int32)


def prompts(
    chat: Chat, conversations: Sequence[Messages], **variables: Any
) -> list[list[int]]:  # ids
    """`prompt` of many conversations, on all cores; what they share is encoded once."""
    rendered = []
    for messages in conversations:
        shown, hidden = hide(chat, messages)
        text = fill(chat, shown, variables, add_generation_prompt=True)
        rendered.append((text, hidden))
    return encode_batch(chat, rendered)


def check_vocabulary(chat: Chat, vocab_size: int) -> None:
    """ValueError names a token that a text can have and a model of so many ids has not.

    Tokens that nothing writes, a padding token that was added, say, may lie beyond.
    """
    written = set(chat.special.findall(_probe(chat)[0])) | set(chat.special.findall(chat.template))
    known = chat.tokenizer.get_vocab()
    special = set(chat.tokenizer.all_special_tokens)
    special |= {t.content for t in chat.tokenizer.added_tokens_decoder.values() if t.special}
    beyond = {
        token: i
        for token, i in known.items()
        if i >= vocab_size and (token in written or token not in special)
    }
    if beyond:
        token = min(beyond, key=lambda token: (token not in written, beyond[token]))
        raise ValueError(
            f"the tokenizer has {token!r} as {beyond[token]} and the model has {vocab_size} ids, 0 "
            f"to {vocab_size - 1} ({len(beyond)} tokens lie beyond): tokens were added and the "
            "embedding was not resized, or the tokenizer is another model's"
        )


def _rendered(
    chat: Chat, text: str, spans: list[tuple[int, int]], hidden: Mapping[str, str]
) -> Rendered:
    tokens: list[int] = []
    chosen: list[bool] = []
    place = 0
    for start, end in [*spans, (len(text), len(text))]:
        for part, said in ((text[place:start], False), (text[start:end], True)):
            ids = encode(chat, part, hidden)
            tokens += ids
            chosen += [said] * len(ids)
        place = end
    return Rendered(np.array(tokens, np.int32), np.array(chosen, bool))


def _probe(chat: Chat) -> tuple[str, int]:
    """A short conversation as text, and where the last line of its answer begins."""
    text = fill(chat, PROBE, {})
    return text, max(text.rfind(PROBE[-1]["content"].splitlines()[-1].strip()), 0)


def _check_spelling(chat: Chat, folder: Path) -> None:
    text, place = _probe(chat)
    own = chat.tokenizer.encode(text, add_special_tokens=False)
    apart = encode(chat, text[:place], {}) + encode(chat, text[place:], {})
    if encode(chat, text, {}) != own or chat.tokenizer.decode(apart) != chat.tokenizer.decode(own):
        raise ValueError(
            f"the tokenizer in {folder} spells a text differently where it begins, so an answer "
            "has no ids of its own; use a byte-level one"
        )


def _end_of_turn(chat: Chat) -> int | None:
    """The special token behind an answer, even where answers do not follow their prompt."""
    try:
        rendered = render(chat, PROBE)
        return int(rendered.tokens[rendered.chosen][-1])
    except ValueError:  # which tells those who train on answers; prompts can do without
        text, place = _probe(chat)
        ends = chat.special.findall(text, place) if place else []
        return chat.tokenizer.convert_tokens_to_ids(ends[-1]) if ends else None


def _stop_ids(chat: Chat, folder: Path, end: int | None) -> tuple[int, ...]:
    """Of template, tokenizer and generation_config.json."""
    ends: Any = []
    if (folder / "generation_config.json").exists():
        ends = read_json(folder / "generation_config.json").get("eos_token_id") or []
    stops = {end, chat.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    if stops == {None}:
        raise ValueError(
            f"nothing ends an answer in {folder}: its template writes no special token behind one, "
            "its tokenizer has no eos_token and there is no generation_config.json; use another "
            "template"
        )
    return tuple(sorted(stops - {None}))


def _turn(
    chat: Chat, messages: Any, n: int, text: str, variables: Mapping[str, Any]
) -> tuple[int, int]:
    """Where message n, the assistant's, lies in the text: after the prompt that would ask for it,
    to the special token that ends it."""
    if n == 0:
        raise ValueError("message 0 is the assistant's; begin with the system's or the user's")
    before = fill(chat, messages[:n], variables, add_generation_prompt=True)
    until = fill(chat, messages[: n + 1], variables)
    advice = "use `render_turns` (or `render_last`)"
    if text == until:  # as these do
        advice = "it can be prompted and not learnt from; use other `variables`"
    for part, what in ((before, "the prompt for"), (until, "the conversation up to")):
        if not text.startswith(part):
            agree = [a == b for a, b in zip(text, part, strict=False)]
            place = [*agree, False].index(False)
            raise HistoryError(
                f"the chat template writes {what} message {n} differently in the whole "
                f"conversation ({part[place : place + 30]!r} becomes "
                f"{text[place : place + 30]!r}), so what a model sees there when it answers "
                f"cannot be told; {advice}, or a template with {{% generation %}} around answers"
            )
    ends = [match.end() for match in chat.special.finditer(text, len(before), len(until))]
    if not ends:
        raise _endless(f"message {n}", until)
    return len(before), ends[-1]


def _endless(what: str, text: str) -> ValueError:
    return ValueError(
        f"the chat template ends {what} by {text[-10:]!r}, without a special token, so an answer "
        "would never stop; use another template"
    )


def _marked(
    chat: Chat, messages: Any, variables: Mapping[str, Any]
) -> tuple[str, list[tuple[int, int]]]:
    """The text, and what the template marks in it: to the end of the turn, and no further."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered: Any = render_jinja_template(
            conversations=[messages],
            chat_template=chat.template,
            return_assistant_tokens_mask=True,
            **{**chat.tokenizer.special_tokens_map, **chat.variables, **variables},
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses these messages ({error})") from error
    (text,), (marks,) = rendered
    spans = []
    for start, end in marks:
        inside = [match.end() for match in chat.special.finditer(text, start, end)]
        after = chat.special.match(text, end)
        if inside and not text[inside[-1] : end].strip():
            end = inside[-1]
        elif after:
            end = after.end()
        else:
            raise _endless("what it marks as generated", text[:end])
        spans.append((start, end))
    return text, spans
