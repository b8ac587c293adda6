"""Small tokenizers with the templates of the released families, saved as released ones are."""

import json

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from tests.oracles.tiny_tokenizers import TEXTS

# How Qwen2 cuts text before merging; Llama 3 keeps up to three digits together.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"qwen": WORDS, "llama": WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")}

CHATML = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a model.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# What the assistant thought is shown in the last turn only: no beginning of a longer conversation.
THINKING = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- set content = content.split('</think>')[-1] %}
        {%- if loop.last %}
            {{- '<think>\\n' + message.thought | default('') + '\\n</think>\\n\\n' }}
        {%- endif %}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def marked(template, *, end):
    """CHATML with marks around what is generated, up to and with `end`."""
    plain = "message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    rest = "<|im_end|>\\n".removeprefix(end)
    inside = "{{- message.content + '" + end + "' }}" if end else "{{- message.content }}"
    return template.replace(
        plain,
        "message.role + '\\n' }}{%- if message.role == 'assistant' %}{% generation %}" + inside
        + "{% endgeneration %}{%- else %}{{- message.content + '" + end + "' }}{%- endif %}"
        + "{{- '" + rest + "' }}",
    )  # fmt: skip


CONTROL = {
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
              "<|eot_id|>"),
}  # fmt: skip


def byte_level(family):
    """Trained until line breaks merge, as they do in the released ones."""
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(PATTERNS[family]), "isolated")
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, spell])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [*TEXTS, "a\n\nb\n\n\nc" * 50],
        BpeTrainer(
            vocab_size=400,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def save(folder, family, template, *, eos=None, ends=()):
    """The folder of a tokenizer; `ends` are those that generation_config.json adds."""
    tokenizer = byte_level(family)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in CONTROL[family]])
    if family == "qwen":
        tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    names = {"eos_token": eos or CONTROL[family][-1]}
    if family == "llama":
        names["bos_token"] = "<|begin_of_text|>"
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    if ends:
        told = {"eos_token_id": [wrapped.convert_tokens_to_ids(t) for t in ends]}
        (folder / "generation_config.json").write_text(json.dumps(told))
    return wrapped
