"""The tokenizer and chat template of a GGUF file's metadata, as the files that others read."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # of tokenizer.ggml.token_type
_WORDS = (  # of GPT-4's tokenizer, from which both families take it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS % digits), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _single_digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


# By tokenizer.ggml.pre, llama.cpp's name for how text is cut before pairs of bytes are merged.
CUTS: dict[str, Callable[[], Any]] = {
    "gpt-2": _gpt2,
    "smollm": _single_digits,
    "llama-bpe": lambda: _split(r"\p{N}{1,3}"),
    "qwen2": lambda: _split(r"\p{N}"),
    "deepseek-r1-qwen": lambda: _split(r"\p{N}"),
}
COMPOSED = ("qwen2", "deepseek-r1-qwen")  # characters are composed (NFC) first
WHOLE_WORDS = ("llama-bpe",)  # a word of the vocabulary is one token, whatever the merges say


def tokenizer_files(fields: Mapping[str, Any]) -> dict[str, str]:
    """tokenizer.json, tokenizer_config.json and generation_config.json, as texts.

    ValueError names the field that is missing or that asks for another kind of tokenizer.
    """
    kind, cut = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise ValueError(
            f"tokenizer.ggml.model is {kind!r}; only 'gpt2', pairs of bytes, is supported. Take "
            "tokenizer.json from the model's own folder instead"
        )
    if cut not in CUTS:
        raise ValueError(
            f"tokenizer.ggml.pre is {cut!r}; allowed are {', '.join(CUTS)}. Texts would be cut "
            "otherwise than the model learnt them"
        )
    tokens = fields.get("tokenizer.ggml.tokens")
    merges = fields.get("tokenizer.ggml.merges")
    if not tokens or merges is None:
        raise ValueError("the file has no tokenizer.ggml.tokens and merges; take another file")
    named = {
        name: tokens[fields[f"tokenizer.ggml.{field}_token_id"]]
        for name, field in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{field}_token_id" in fields
    }
    tokenizer = _tokenizer(fields, cut, tokens, merges)
    if fields.get("tokenizer.ggml.add_bos_token") and "bos" in named:
        bos = named["bos"]
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tokens.index(bos))],
        )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": token for name, token in named.items()},
    }
    if "tokenizer.chat_template" in fields:
        config["chat_template"] = fields["tokenizer.chat_template"]
    ends = [
        fields[f"tokenizer.ggml.{name}_token_id"]
        for name in ("eos", "eot", "eom")
        if f"tokenizer.ggml.{name}_token_id" in fields
    ]
    generation = {"eos_token_id": list(dict.fromkeys(ends))} if ends else {}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
    }


def _tokenizer(
    fields: Mapping[str, Any], cut: str, tokens: list[str], merges: list[str]
) -> Tokenizer:
    kinds = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED, UNUSED)
    ]
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=pairs,
        ignore_merges=cut in WHOLE_WORDS,
    )
    tokenizer: Any = Tokenizer(model)
    if cut in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = CUTS[cut]()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])
    return tokenizer
