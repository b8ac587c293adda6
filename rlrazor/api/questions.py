"""Worlds of one's own: questions and answers as files, and who judges them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlrazor.api.model import Pretrained
from rlrazor.runtime.chat import HistoryError, prompt, render, render_last
from rlrazor.runtime.distributed import is_writer
from rlrazor.studies import questions as asked
from rlrazor.studies.host import Encoded, Judge, OnHost, Question
from rlrazor.studies.world import Measurement, World
from rlrazor.tasks.questions import final_answer
from rlrazor.tasks.questions.lines import Example, check_truths, choose, read_examples

# Parts of a seed's measuring key.
NEW, SAMPLED, PRIOR, PRIOR_SAMPLED = 0, 10, 20, 30


@dataclasses.dataclass(frozen=True)
class Format:
    """How lines of a file are read: the fields of a question, and a system prompt."""

    asked: str = "question"
    answer: str = "answer"
    system: str = ""  # put before conversations without a system message


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a file is called where something is wrong with it: as the reader has named it."""

    train: str = "train"
    new: str = "new"
    shifts: str = "shifts"  # `shifts.NAME`
    prior: str = "prior"


@dataclasses.dataclass(frozen=True)
class Asked:
    """How much is asked, and to which lengths rows are padded."""

    prompt_buckets: tuple[int, ...] = (256, 512)  # every one of them is compiled once
    row_buckets: tuple[int, ...] = (512, 1024, 2048)
    test_examples: int = 128  # of every test file, chosen by the seed
    at_once: int = 32  # questions answered at a time
    rows_at_once: int = 1  # of a device, whose KL is worked out at a time
    seed: int = 0
    pairs: bool = False  # whether wrong answers are encoded, for methods that learn from pairs
    demonstrated: bool = False  # whether prompts with a demonstration are, for SDFT
    imitated: bool = True  # whether answers of the training file are encoded
    judged: bool = True  # whether answers to the training file are; not so where all is imitated
    fields: Fields = Fields()


def questions(
    base: Pretrained,
    *,
    train: str | Path,
    new: str | Path = "",
    shifts: Mapping[str, str | Path] | None = None,
    prior: Mapping[str, str | Path | Measurement] | None = None,
    judge: Judge = final_answer.judge,
    format: Format = Format(),  # never changed
    prior_format: Format = Format(),
    sizes: Asked = Asked(),
) -> World:
    """A world of JSON lines: trained on one file, measured on others, judged by `judge`.

    `new` is held out of the new task; each of `shifts` is another version of it, by name; each of
    `prior` another task, by name: what is not to be forgotten, a file or what `api.harness.harness`
    gives. Truths that the judge cannot read
    are left out, counted and named by line. ValueError names the field and the line of a mistake.
    """
    reading = _Reading(base, judge, sizes)
    fields = sizes.fields
    taught = reading.train(train, format)
    tests = {"new": (new, fields.new)} if new else {}
    tests |= {
        f"shift/{name}": (path, f"{fields.shifts}.{name}")
        for name, path in (shifts or {}).items()
        if path
    }
    asking = asked.Asking(base.policy, at_once=sizes.at_once)
    measurements: list[Measurement] = []
    for prefix, (path, field) in tests.items():
        on = reading.test(path, format, field)
        measurements.append(asked.success(asking, prefix, on, part=NEW))
        if prefix == "new":
            measurements.append(
                asked.divergence(asking, "new", [on], rows_at_once=sizes.rows_at_once, part=SAMPLED)
            )
    others = [task for task in (prior or {}).values() if isinstance(task, Measurement)]
    suites = {
        name: reading.test(path, prior_format, f"{fields.prior}.{name}")
        for name, path in (prior or {}).items()
        if path and not isinstance(path, Measurement)
    }
    if suites or others:
        measurements.append(asked.prior(asking, suites, part=PRIOR, others=others))
    if suites:
        measurements.append(
            asked.divergence(
                asking, "prior", [*suites.values()], rows_at_once=sizes.rows_at_once,
                part=PRIOR_SAMPLED, own=False,
            )
        )  # fmt: skip
    record = {
        "train": str(train),
        "new": str(new),
        "shifts": {name: str(path) for name, path in (shifts or {}).items()},
        "prior": {
            name: list(task.beside) if isinstance(task, Measurement) else str(task)
            for name, task in (prior or {}).items()
        },
        "judge": getattr(judge, "__qualname__", type(judge).__qualname__),
        "format": dataclasses.asdict(format),
        "prior_format": dataclasses.asdict(prior_format),
        "sizes": dataclasses.asdict(sizes),
    }
    return World(train=taught, measurements=measurements, record=record)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """From files to questions as tokens."""

    base: Pretrained
    judge: Judge
    sizes: Asked

    def train(self, path: str | Path, format: Format) -> OnHost:
        field = self.sizes.fields.train
        examples = self._examples(path, format, field, judged=self.sizes.judged)
        taught = [question for example in examples for question in self._taught(example)]
        return self._on_host(taught, f"{field}={str(path)!r}")

    def test(self, path: str | Path, format: Format, field: str) -> OnHost:
        examples = self._examples(path, format, field)
        few = choose(examples, self.sizes.test_examples, self.sizes.seed)
        return self._on_host([self._asked(example) for example in few], f"{field}={str(path)!r}")

    def _examples(
        self, path: str | Path, format: Format, field: str, *, judged: bool = True
    ) -> list[Example]:
        examples = read_examples(
            path, field=field, asked=format.asked, answer=format.answer, system=format.system
        )
        if judged and self.judge is final_answer.judge:
            try:
                sentences = check_truths(examples, final_answer.unreadable)
            except ValueError as error:
                advice = "give a judge of your own, or, to imitate only, `Asked(judged=False)`"
                raise ValueError(f"{field}={str(path)!r}: {error}; {advice}") from error
            for sentence in sentences:
                if is_writer():
                    print(f"{field}={str(path)!r}: {sentence}; left out")
            examples = [x for x in examples if final_answer.unreadable(x.answer) is None]
        return examples

    def _asked(self, example: Example) -> Question:
        messages, tools = example.asked, _tools(example)
        tokens = self._named(example, lambda: prompt(self.base.chat, messages, **tools))
        return Question(tokens, _text(messages), example.answer)

    def _taught(self, example: Example) -> list[Question]:
        """Questions with all that methods may learn from: one, or one for each answer.

        A template that shows earlier answers otherwise than they were given, without what was
        thought before them, makes each answer an example of its own.
        """
        chat, tools = self.base.chat, _tools(example)
        if not self.sizes.imitated:  # some templates can be prompted and not learnt from
            return [self._with(example, None)]

        def whole() -> list[Question]:
            found = render(chat, example.messages, **tools)
            return [self._with(example, Encoded(found.tokens, found.chosen))]

        def apart() -> list[Question]:
            messages, made = example.messages, []
            for n, message in enumerate(messages):
                if message["role"] == "assistant":
                    part = dataclasses.replace(
                        example, asked=messages[:n], answer=message["content"]
                    )
                    found = render_last(chat, messages[: n + 1], **tools)
                    made.append(self._with(part, Encoded(found.tokens, found.chosen)))
            return made

        try:
            return whole()
        except HistoryError:
            return self._named(example, apart)
        except ValueError as error:
            raise ValueError(f"{example.where}: {error}") from error

    def _with(self, example: Example, conversation: Encoded | None) -> Question:
        """The question of an example with its conversation, its wrong answer, its demonstration."""
        question = self._asked(example)
        chat, tools = self.base.chat, _tools(example)

        def encoded(messages: Any) -> Encoded:
            found = render_last(chat, messages, **tools)
            return Encoded(found.tokens, found.chosen)

        rejected = demonstrated = None
        if self.sizes.pairs and example.rejected is not None:
            wrong = [*example.asked, {"role": "assistant", "content": example.rejected}]
            rejected = self._named(example, lambda: encoded(wrong))
        if self.sizes.demonstrated:
            again = [*example.messages, example.asked[-1]]
            demonstrated = self._named(example, lambda: prompt(chat, again, **tools))
        return dataclasses.replace(
            question, conversation=conversation, rejected=rejected, demonstrated=demonstrated
        )

    def _named(self, example: Example, make: Callable[[], Any]) -> Any:
        """What is made of an example; mistakes are named by its line."""
        try:
            return make()
        except ValueError as error:
            raise ValueError(f"{example.where}: {error}") from error

    def _on_host(self, made: Sequence[Question], name: str) -> OnHost:
        """Questions that fit the longest buckets; those that do not are counted."""
        sizes = self.sizes
        kept = [
            q
            for q in made
            if len(q.prompt) <= max(sizes.prompt_buckets)
            and all(
                x is None or len(x.tokens) <= max(sizes.row_buckets)
                for x in (q.conversation, q.rejected)
            )
        ]
        if not kept:
            shortest = min(len(q.prompt) for q in made)
            raise ValueError(
                f"{name}: none of {len(made)} examples fits prompts of {max(sizes.prompt_buckets)} "
                f"and rows of {max(sizes.row_buckets)} tokens (the shortest prompt has "
                f"{shortest}); raise prompt_buckets or row_buckets"
            )
        if len(kept) < len(made) and is_writer():
            print(f"{name}: {len(made) - len(kept)} of {len(made)} are too long and left out")
        return OnHost(kept, self.judge, self.base.decode, sizes.prompt_buckets, sizes.row_buckets)


def _tools(example: Example) -> dict[str, Any]:
    return {} if example.tools is None else {"tools": example.tools}


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Of the last message that asks: what a judge is told."""
    content = messages[-1].get("content")
    return content if isinstance(content, str) else str(content)
