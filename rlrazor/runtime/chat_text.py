"""A chat's template filled in as text, and that text as ids.

Only a template writes special tokens. Where a message's text spells one, `<|im_end|>` say, it is
encoded as the ordinary characters that it is, so that no text can end its turn or begin another's.
(Added tokens that are not special, such as `<think>`, stay tokens: models write them themselves.)
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2

Messages = Sequence[Mapping[str, Any]]  # {"role": "user", "content": "..."}, ...
HALF = re.compile("[\ud800-\udfff]")
SAID = ("tool_calls", "reasoning_content", "thinking")  # beside the content of a message
TOLD = ("tools", "documents")  # beside the messages
PRIVATE = range(0x100000, 0x10FFFE)  # characters without a meaning, for a while in place of tokens


@dataclasses.dataclass(frozen=True)
class Chat:
    """A tokenizer with its template; `chat.load_chat` makes it."""

    tokenizer: Any  # of transformers
    template: str  # with the date written into it
    special: re.Pattern[str]  # the text of any special token
    variables: Mapping[str, Any]  # of the template, whenever it is filled in
    end: int | None = None  # by which the template ends the assistant's turn, if by a special token
    stop_ids: tuple[int, ...] = ()  # end an answer: that one, the end of text, ...


def hide(chat: Chat, messages: Messages) -> tuple[list[Any], dict[str, str]]:
    """The messages, private characters for special tokens in their text, and what these are.

    ValueError names a message that spells a special token across its parts, or half a character.
    """
    texts = [list(_strings(message)) for message in messages]
    for n, strings in enumerate(texts):
        half = next(filter(None, map(HALF.search, strings)), None)
        if half:
            raise ValueError(
                f"message {n} has {half[0]!r}, half of a character (a lone surrogate), which is no "
                "text; write the character itself"
            )
    found = {match for text in texts for s in text for match in chat.special.findall(s)}
    used = set().union(*(s for text in texts for s in text)) if found else set()
    free = (chr(code) for code in PRIVATE if chr(code) not in used)
    stands_for = dict(zip(free, sorted(found), strict=False))
    placed = {token: character for character, token in stands_for.items()}

    def replace(value: Any) -> Any:
        if isinstance(value, str):
            return chat.special.sub(lambda match: placed[match[0]], value)
        if isinstance(value, Mapping):
            return {key: replace(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [replace(item) for item in value]
        return value

    hidden = [replace(message) for message in messages]
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


def fill(chat: Chat, messages: Any, variables: Mapping[str, Any], **settings: Any) -> str:
    """The template's text for messages that `hide` gave."""
    _check_read(chat, messages, variables)
    try:
        return chat.tokenizer.apply_chat_template(
            messages,
            chat_template=chat.template,
            tokenize=False,
            **settings,
            **{**chat.variables, **variables},
        )
    except (jinja2.TemplateError, TypeError, KeyError) as error:
        raise ValueError(f"the chat template refuses these messages ({error})") from error


def _check_read(chat: Chat, messages: Any, variables: Mapping[str, Any]) -> None:
    """ValueError for what a model should see or say, and that the template never mentions."""
    given = [("the conversation", name) for name in TOLD if variables.get(name)]
    for n, message in enumerate(messages):
        given += [(f"message {n}", name) for name in SAID if message.get(name)]
    for what, name in given:
        if name not in chat.template:
            raise ValueError(
                f"{what} has {name!r}, which the chat template does not read, so it would be lost; "
                "write it into the content, remove it, or use a template that reads it"
            )


def encode(chat: Chat, text: str, hidden: Mapping[str, str]) -> list[int]:
    """Ids of rendered text: its special tokens, and all between them as ordinary text."""
    return encode_batch(chat, [(text, hidden)])[0]


def encode_batch(chat: Chat, rendered: Sequence[tuple[str, Mapping[str, str]]]) -> list[list[int]]:
    """`encode` of many texts; a stretch that many of them share is encoded once."""
    pieces = [list(_pieces(chat, text, hidden)) for text, hidden in rendered]
    texts = list(dict.fromkeys(piece for row in pieces for piece in row if isinstance(piece, str)))
    spelled = dict(zip(texts, encode_plain(chat, texts), strict=True))
    return [
        [i for piece in row for i in (spelled[piece] if isinstance(piece, str) else [piece])]
        for row in pieces
    ]


def encode_plain(chat: Chat, texts: Sequence[str]) -> list[list[int]]:
    """Ids of ordinary text, whatever it spells."""
    backend = chat.tokenizer.backend_tokenizer
    # Transformers sets these anew at every call of its own.
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return [e.ids for e in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _pieces(chat: Chat, text: str, hidden: Mapping[str, str]) -> Iterator[str | int]:
    """Special tokens as ids, and what lies between them as the text that it stands for."""
    show = str.maketrans(dict(hidden))
    place = 0
    for token in [*chat.special.finditer(text), None]:
        between = text[place : token.start() if token else None].translate(show)
        if between:
            yield between
        if token:
            yield chat.tokenizer.convert_tokens_to_ids(token[0])
            place = token.end()
