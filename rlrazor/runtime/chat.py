"""Conversations to token ids by a model's own chat template, and which of them the assistant said.

Only a template writes special tokens. Where a message's text spells one, `<|im_end|>` say, it is
encoded as the ordinary characters that it is, so that no text can end its turn or begin another's.
(Added tokens that are not special, such as `<think>`, stay tokens: models write them themselves.)
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from rlrazor.runtime.hub import find_model
from rlrazor.runtime.tensor_files import read_json

Messages = Sequence[Mapping[str, Any]]  # {"role": "user", "content": "..."}, ...
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")  # where a template says what is generated
PRIVATE = range(0x100000, 0x10FFFE)  # characters without a meaning, for a while in place of tokens
PROBE = [
    {"role": "user", "content": "How many,  12 or 3?\n\nSay."},
    {"role": "assistant", "content": "Both: 12\n and 3."},
]


@dataclasses.dataclass(frozen=True)
class Chat:
    """A tokenizer with its template; `load_chat` makes it."""

    tokenizer: Any  # of transformers
    template: str
    special: re.Pattern[str]  # the text of any special token
    stop_ids: tuple[int, ...]  # end an answer: the template's end of turn, end of text, ...


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A conversation as a model reads it."""

    tokens: np.ndarray  # i32[T]
    chosen: np.ndarray  # bool[T] said by the assistant, the token that ends its turn included


def load_chat(source: str | Path, *, template: str | None = None) -> Chat:
    """Tokenizer and template of a folder or hub id, or another template (Jinja) for it.

    ValueError if there is no tokenizer or template, if a template does not end the assistant's turn
    by a special token, or if the tokenizer cannot spell an answer on its own.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(
            "chat templates need the transformers package: pip install 'rlrazor[hub]'"
        ) from error
    folder = find_model(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # many kinds, by what is missing or broken
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{folder} has no tokenizer that can be read ({reason[0]})") from error
    if not tokenizer.is_fast:
        raise ValueError(f"{folder} has no tokenizer.json; save its tokenizer as a fast one")
    if template is None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"{folder} has no chat template, as base models have none; give one as `template`"
            )
        template = str(tokenizer.get_chat_template())
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special}
    special |= set(tokenizer.all_special_tokens)
    longest_first = sorted(special, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    chat = Chat(tokenizer, template, pattern, ())
    return dataclasses.replace(chat, stop_ids=_stop_ids(chat, folder))


def render(chat: Chat, messages: Messages, **variables: Any) -> Rendered:
    """A whole conversation and the mask of what the assistant says in it.

    `variables` are the template's own, such as `tools` or `enable_thinking`, and trusted: special
    tokens in them stay special. Where the template marks what is generated, the mark counts, with
    the end of the turn. Elsewhere, a turn is what follows the prompt that would have asked for it;
    ValueError if what came before looks different there. The ids of an answer are those of its own
    text, never merged with the header before it.
    """
    shown, hidden = _hide(chat, messages)
    if MARKED.search(chat.template):
        text, spans = _marked(chat, shown, variables)
    else:
        text = _text(chat, shown, variables)
        said = [n for n, message in enumerate(shown) if message.get("role") == "assistant"]
        spans = [_turn(chat, shown, n, text, variables) for n in said]
    return _rendered(chat, text, spans, hidden)


def render_last(chat: Chat, messages: Messages, **variables: Any) -> Rendered:
    """A conversation that ends with an answer, and the mask of this answer alone.

    For templates that show earlier answers otherwise than they were given, without what was
    thought before them, say: each answer is then an example of its own.
    """
    shown, hidden = _hide(chat, messages)
    if not shown or shown[-1].get("role") != "assistant":
        raise ValueError("the last message must be the assistant's; leave out what follows it")
    text = _text(chat, shown, variables)
    span = _turn(chat, shown, len(shown) - 1, text, variables)
    return _rendered(chat, text, [span], hidden)


def prompt(chat: Chat, messages: Messages, **variables: Any) -> np.ndarray:  # i32[T]
    """The conversation so far and the header of the assistant's next turn: what to sample after."""
    shown, hidden = _hide(chat, messages)
    text = _text(chat, shown, variables, add_generation_prompt=True)
    return np.array(_encode(chat, text, hidden), np.int32)


def _rendered(
    chat: Chat, text: str, spans: list[tuple[int, int]], hidden: Mapping[str, str]
) -> Rendered:
    tokens: list[int] = []
    chosen: list[bool] = []
    place = 0
    for start, end in [*spans, (len(text), len(text))]:
        for part, said in ((text[place:start], False), (text[start:end], True)):
            ids = _encode(chat, part, hidden)
            tokens += ids
            chosen += [said] * len(ids)
        place = end
    return Rendered(np.array(tokens, np.int32), np.array(chosen, bool))


def _stop_ids(chat: Chat, folder: Path) -> tuple[int, ...]:
    """Of template, tokenizer and generation_config.json; checks the tokenizer on the way."""
    text = _text(chat, PROBE, {})
    own = chat.tokenizer.encode(text, add_special_tokens=False)
    rendered = render(chat, PROBE)
    shown = chat.tokenizer.decode(rendered.tokens)
    if _encode(chat, text, {}) != own or shown != chat.tokenizer.decode(own):
        raise ValueError(
            f"the tokenizer in {folder} spells a text differently where it begins, so an answer "
            "has no ids of its own; use a byte-level one"
        )
    end = int(rendered.tokens[rendered.chosen][-1])
    ends: Any = []
    if (folder / "generation_config.json").exists():
        ends = read_json(folder / "generation_config.json").get("eos_token_id") or []
    stops = {end, chat.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return tuple(sorted(stops - {None}))


def _hide(chat: Chat, messages: Messages) -> tuple[list[Any], dict[str, str]]:
    """The messages, private characters for special tokens in their text, and what these are."""
    texts = [list(_strings(message)) for message in messages]
    found = {match for text in texts for s in text for match in chat.special.findall(s)}
    used = set().union(*(s for text in texts for s in text)) if found else set()
    free = (chr(code) for code in PRIVATE if chr(code) not in used)
    stands_for = dict(zip(free, sorted(found), strict=False))
    placed = {token: character for character, token in stands_for.items()}

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return chat.special.sub(lambda match: placed[match[0]], value)
        if isinstance(value, Mapping):
            return {key: hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [hide(item) for item in value]
        return value

    hidden = [hide(message) for message in messages]
    for n, message in enumerate(hidden):
        content = message.get("content")
        in_parts = content if isinstance(content, list) else []
        spelled = "".join(part.get("text", "") for part in in_parts if isinstance(part, dict))
        joined = chat.special.search(spelled)  # a template may join what no part alone spells
        if joined:
            raise ValueError(
                f"the parts of message {n} spell {joined[0]!r} between them; give its text in one"
            )
    return hidden, stands_for


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _encode(chat: Chat, text: str, hidden: Mapping[str, str]) -> list[int]:
    """Ids of rendered text: its special tokens, and all between them as ordinary text."""
    show = str.maketrans(dict(hidden))
    ids: list[int] = []
    place = 0
    for token in [*chat.special.finditer(text), None]:
        between = text[place : token.start() if token else None].translate(show)
        if between:
            ids += chat.tokenizer.encode(
                between, add_special_tokens=False, split_special_tokens=True
            )
        if token:
            ids.append(chat.tokenizer.convert_tokens_to_ids(token[0]))
            place = token.end()
    return ids


def _text(chat: Chat, messages: Any, variables: Mapping[str, Any], **settings: Any) -> str:
    try:
        return chat.tokenizer.apply_chat_template(
            messages, chat_template=chat.template, tokenize=False, **settings, **variables
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses these messages ({error})") from error


def _turn(
    chat: Chat, messages: Any, n: int, text: str, variables: Mapping[str, Any]
) -> tuple[int, int]:
    """Where message n, the assistant's, lies in the text: after the prompt that would ask for it,
    to the special token that ends it."""
    if n == 0:
        raise ValueError("message 0 is the assistant's; begin with the system's or the user's")
    before = _text(chat, messages[:n], variables, add_generation_prompt=True)
    until = _text(chat, messages[: n + 1], variables)
    for part, what in ((before, "the prompt for"), (until, "the conversation up to")):
        if not text.startswith(part):
            agree = [a == b for a, b in zip(text, part, strict=False)]
            place = [*agree, False].index(False)
            raise ValueError(
                f"the chat template writes {what} message {n} differently in the whole "
                f"conversation ({part[place : place + 30]!r} becomes "
                f"{text[place : place + 30]!r}), so what a model sees there when it answers "
                "cannot be told; use `render_last` for each answer, or a template with "
                "{% generation %} around the answers"
            )
    ends = [match.end() for match in chat.special.finditer(text, len(before), len(until))]
    if not ends:
        raise ValueError(
            f"the chat template ends message {n} by {until[-10:]!r}, without a special token, "
            "so an answer would never stop; use another template"
        )
    return len(before), ends[-1]


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
            **{**chat.tokenizer.special_tokens_map, **variables},
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
        spans.append((start, end))
    return text, spans
