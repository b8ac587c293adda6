"""Tasks in a released model's own words: its tokenizer, spoken to through its chat template.

A prompt is the user's message with the header of the assistant's turn. An answer ends by the
template's own token, which the policy samples. What the task says then is the user's next message:
what the template writes from there to the header of the next answer. So the transcript of an
episode is the conversation as the template writes it.
"""

import dataclasses
from collections.abc import Sequence

from rlrazor.runtime.chat import prompts
from rlrazor.runtime.chat_text import Chat, encode, encode_plain, fill, hide
from rlrazor.types import Vocabulary

QUESTION, WORDS = "Add 1 and 1.", "That is wrong."
ANSWERS = ("It is 3.", '{"sum": [3], "formula": "1+1=3"}')


@dataclasses.dataclass(frozen=True)
class ChatWords:
    """What a task and its player need to know of a chat."""

    vocabulary: Vocabulary
    end: int  # closes an answer, a demonstration too
    stop_ids: tuple[int, ...]  # end an answer when sampled: that one, the end of text, ...


def chat_vocabulary(chat: Chat, *, system: str = "", as_played: bool = False) -> ChatWords:
    """How a task says things to the model of a chat.

    `encode_batch` gives prompts, after the system's message if there is one. `encode_reply` gives
    what stands between the end of an answer and the next one, without the line breaks that other
    models need around words. `encode_inside` gives pieces of answers, to be joined.

    ValueError if the template does not end answers by a special token, or if a transcript would not
    be what the template makes of the conversation: because it rewrites earlier answers (Qwen3 takes
    the thinking out), or because the tokenizer merges what is joined. What an answer of several
    turns thinks is not looked at: a template may still leave it out. `as_played` takes the
    transcript as it is played, with all that was sampled, for a template that would rewrite it.
    """
    if chat.end is None:
        raise ValueError(
            "the chat template ends no answer by a special token, so a later turn has no place to "
            "begin; load the chat with another `template`"
        )
    words = _Words(chat, chat.end, [_message("system", system)] if system else [], as_played)
    if not as_played:
        words.check_joins()
    vocabulary = Vocabulary(words.prompts, words.inside, words.decode, words.reply, words.around())
    return ChatWords(vocabulary, chat.end, chat.stop_ids)


@dataclasses.dataclass(frozen=True)
class _Words:
    chat: Chat
    end: int
    before: list[dict[str, str]]  # the user's first message
    as_played: bool

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        found = prompts(self.chat, [[*self.before, _message("user", text)] for text in texts])
        backend = self.chat.tokenizer.backend_tokenizer
        shown = backend.decode_batch(found, skip_special_tokens=False)
        for text, decoded in zip(texts, shown, strict=True):
            if text.strip() not in decoded:  # templates may trim it
                raise ValueError(
                    f"the chat cannot spell {text[:80]!r}: in its prompt it reads "
                    f"{decoded[:200]!r}; use other words, or another template or tokenizer"
                )
        return found

    def around(self) -> tuple[list[int], list[int]]:
        """What stands before and behind the user's only message, in ids of their own."""
        asked = [*self.before, _message("user", QUESTION)]
        shown, hidden = hide(self.chat, asked)
        whole = fill(self.chat, shown, {}, add_generation_prompt=True)
        before, _, behind = whole.partition(QUESTION)
        return encode(self.chat, before, hidden), encode(self.chat, behind, hidden)

    def inside(self, text: str) -> list[int]:
        (ids,) = encode_plain(self.chat, [text])
        if self.decode(ids) != text:
            raise ValueError(
                f"the tokenizer cannot spell {text!r}: it decodes to {self.decode(ids)!r}"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        backend = self.chat.tokenizer.backend_tokenizer
        return backend.decode(list(ids), skip_special_tokens=False)

    def reply(self, text: str) -> list[int]:
        talk = self._talk(ANSWERS[0], text.strip("\n"))
        shown, hidden = hide(self.chat, talk)
        whole = fill(self.chat, shown, {}, add_generation_prompt=True)
        asked = fill(self.chat, shown[:-2], {}, add_generation_prompt=True)
        return encode(self.chat, whole[self._end_of_answer(whole, asked) :], hidden)

    def check_joins(self) -> None:
        """Parts that are encoded apart have the ids of the whole conversation."""
        for answer in ANSWERS:
            talk = self._talk(answer, WORDS)
            asked, whole = prompts(self.chat, [talk[:-2], talk])
            played = [*asked, *self.inside(answer), self.end, *self.reply(WORDS)]
            if played != whole:
                raise ValueError(
                    f"the tokenizer merges an answer with what stands around it: {answer!r} is "
                    f"played as {self.decode(played)!r} in other ids than the conversation has; "
                    "give as_played=True to do with those"
                )

    def _talk(self, answer: str, words: str) -> list[dict[str, str]]:
        first = [*self.before, _message("user", QUESTION)]
        return [*first, _message("assistant", answer), _message("user", words)]

    def _end_of_answer(self, whole: str, asked: str) -> int:
        """Where the token behind the first answer ends in the text of a conversation."""
        end = self.chat.tokenizer.convert_ids_to_tokens(self.end)
        played = asked + ANSWERS[0] + end
        if whole.startswith(played):
            return len(played)
        if not self.as_played:
            agree = [a == b for a, b in zip(whole, played, strict=False)]
            place = [*agree, False].index(False)
            raise ValueError(
                f"the chat template writes an earlier answer otherwise than it was played "
                f"({played[place : place + 30]!r} becomes {whole[place : place + 30]!r}), so a "
                "second turn would not be what the model knows; give as_played=True to keep what "
                "was played, or load the chat with another `template` or other `variables`"
            )
        place = whole.find(ANSWERS[0]) + len(ANSWERS[0])
        found = self.chat.special.search(whole, place)
        if place < len(ANSWERS[0]) or found is None or found[0] != end:
            raise ValueError(
                f"the chat template does not show an earlier answer with its {end!r}, so where the "
                "next message begins cannot be told; load the chat with another `template`"
            )
        return found.end()


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
