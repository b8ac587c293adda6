"""A model's tokenizer and chat template as its own files have them, whatever the surroundings.

Transformers rebuilds some tokenizers by the class or the kind of model that a config names, and
some templates ask what day it is. Here the tokenizer is tokenizer.json's, and the day is given.
"""

import datetime
import re
from pathlib import Path
from typing import Any

from rlrazor.runtime.tokenizer import load_tokenizer

DAY = datetime.date(2024, 7, 26)  # what Llama 3's own templates fall back to
# For models without a template: question, end of the line, answer, end of the text.
PLAIN = """\
{%- for message in messages %}
    {{- message.content }}
    {%- if message.role == 'assistant' %}
        {{- eos_token }}
    {%- else %}
        {{- '\\n' }}
    {%- endif %}
{%- endfor %}"""
TODAY = re.compile(r"""\bstrftime_now\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")
UNKNOWN_DAY = re.compile(r"\bstrftime_now\b(?!\s+is\s+(?:not\s+)?defined)")
CHANCE = re.compile(r"\|\s*random\b|\blipsum\s*\(")
PROBES = (  # what tokenizers cut differently
    "How many, 12 or 3?  Say:\n\n   both.\n",
    "a b  c   d    e        f\t\tg\n\n\nh \n i\r\nj ",
    "1 12 123 1234 12345678901234567890 3.14159 1,000,000 -5 1e-3",
    "naïve café Ångström 日本語 русский عربى हिन्दी 👩\u200d🚀 \u00a0\u2028\ufeff ﬁ",
    "def f(x):\n    return {'a': [x**2, \"b\"]}  # it's\n\tpass\n",
    "I'll, they've WE'RE don't (8/(3-8/3))=24 <b>&amp;</b> \\boxed{7} $x_1$",
)


def read_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, of transformers, with the ids of its tokenizer.json.

    ValueError if there is none, or if transformers reads other ids out of it than the file has.
    """
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError as error:
        raise ValueError(
            "chat templates need the transformers package: pip install 'rlrazor[hub]'"
        ) from error
    file = folder / "tokenizer.json"
    own = load_tokenizer(file) if file.exists() else None
    # The automatic class may put parts of its own in place of the file's.
    kind: Any = AutoTokenizer if own is None else PreTrainedTokenizerFast
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # many kinds, by what is missing or broken
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{folder} has no tokenizer that can be read ({reason[0]})") from error
    if not tokenizer.is_fast:
        raise ValueError(f"{folder} has no tokenizer.json; save its tokenizer as a fast one")
    for text in PROBES:
        if own is None:
            break
        ours = own.encode(text, add_special_tokens=False).ids
        theirs = tokenizer.encode(text, add_special_tokens=False)
        if ours != theirs:
            raise ValueError(
                f"transformers reads {text!r} as the ids {theirs[:8]} ... and {file} says "
                f"{ours[:8]} ...: its tokenizer_config.json changes the tokenizer; remove there "
                "what does (add_prefix_space, say), or save the tokenizer again"
            )
    return tokenizer


def read_template(
    tokenizer: Any, folder: Path, template: str | Path | None, date: datetime.date
) -> str:
    """The folder's template, or the one given, with the date written into it.

    `template` is a file, a text (which has braces), or "plain". ValueError if there is none, or if
    it asks for what changes from one day or one run to the next in a way that cannot be fixed.
    """
    text = _template(tokenizer, folder, template)
    text = TODAY.sub(lambda match: repr(date.strftime(match[1] or match[2] or "")), text)
    spoken = re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL)
    for pattern, what in ((UNKNOWN_DAY, "the day"), (CHANCE, "chance")):
        found = pattern.search(spoken)
        if found:
            line = spoken[: found.end()].splitlines()[-1].strip()
            raise ValueError(
                f"the chat template takes {what} where it is rendered ({line!r}), so prompts would "
                "not be the same twice; give another one as `template`"
            )
    return text


def _template(tokenizer: Any, folder: Path, template: str | Path | None) -> str:
    if template is None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"{folder} has no chat template, as base models have none; give one as `template` "
                "(config.chat.template of a run): a file or text in Jinja, or 'plain' for "
                "question, line break, answer and end of text"
            )
        return str(tokenizer.get_chat_template())
    if isinstance(template, str) and "{" in template:
        return template
    if template == "plain":
        if not tokenizer.eos_token:
            raise ValueError(
                f"the tokenizer in {folder} names no eos_token, by which the template 'plain' ends "
                "an answer; give a template in Jinja"
            )
        # Only where the tokenizer itself begins texts so: many name a bos_token and never use it.
        begins = tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
        return ("{{- bos_token }}" if begins else "") + PLAIN
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the chat template {str(template)!r} cannot be read ({error}); give a file or text in "
            "Jinja, or 'plain'"
        ) from error


def read_date(date: str | datetime.date | None) -> datetime.date:
    """None is DAY; a text is "2024-07-26" or "26 Jul 2024"."""
    if date is None:
        return DAY
    if isinstance(date, datetime.date):
        return date
    for form in ("%Y-%m-%d", "%d %b %Y"):
        try:
            return datetime.datetime.strptime(date, form).date()
        except (TypeError, ValueError):
            continue
    raise ValueError(f"date={date!r} is no day; write it as '2024-07-26' or '26 Jul 2024'")
