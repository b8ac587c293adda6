"""Tokenizers at the rim: files read, every id's bytes tabulated, small closed vocabularies built.

Everything on the device works on ids and bytes; a tokenizer itself never leaves the host.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models

from rlrazor.types import Vocabulary

SPECIALS = ("<pad>", "<bos>", "<eos>")  # of a closed vocabulary: the ids 0, 1 and 2
END = SPECIALS.index("<eos>")  # what ends an answer in one


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a Hugging Face `tokenizer.json`, or the one in a folder.

    Truncation and padding that were saved with it are switched off: they would change texts.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"there is no {file}; give a tokenizer.json or a folder that holds one")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"{file} is not a tokenizer.json that can be read ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def build_closed_tokenizer(phrases: Sequence[str], characters: str) -> Tokenizer:
    """A small vocabulary in which whole phrases are single symbols.

    Text is read from left to right, the longest phrase first, what no phrase covers character by
    character; decoding gives the same text back. Other characters would be dropped without a word,
    so encode with `encode_exactly`. The ids are SPECIALS, then the phrases, then the characters.
    """
    units = dict.fromkeys([*phrases, *characters])
    if "" in units:
        raise ValueError("phrases holds an empty string; leave it out")
    taken = [unit for unit in units if unit in SPECIALS]
    if taken:
        raise ValueError(f"phrases holds {taken[0]!r}, which is a special symbol; leave it out")
    vocabulary = {unit: i for i, unit in enumerate([*SPECIALS, *units])}
    # Without merges the model reads characters; added tokens are matched before, longest first.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tokenizer.add_tokens([AddedToken(u, normalized=False) for u in units if len(u) > 1])
    return tokenizer


def encode_exactly(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of `text` and nothing else; ValueError if they do not decode to the same text."""
    return encode_batch_exactly(tokenizer, [text])[0]


def encode_batch_exactly(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """`encode_exactly` of many texts, on all cores."""
    try:
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    except Exception as error:  # some models raise on an unknown symbol, without a precise type
        raise ValueError(f"the tokenizer cannot spell some text ({error})") from error
    ids = [encoding.ids for encoding in encodings]
    for text, decoded in zip(texts, tokenizer.decode_batch(ids), strict=True):
        if decoded != text:
            _refuse(text, decoded)
    return ids


def encode_inside(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of `text` as it is spelled after other text, here after the end of a line.

    Some tokenizers put a blank before whatever they encode and strip it from whatever they decode;
    joined with others, those ids would spell one blank too many.
    """
    before = encode_exactly(tokenizer, "\n")
    whole = encode_exactly(tokenizer, "\n" + text)
    if whole[: len(before)] != before:
        raise ValueError(
            f"the tokenizer merges the end of a line with {text!r}, so what follows a line has no "
            "ids of its own; use another tokenizer"
        )
    return whole[len(before) :]


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """What tasks need to know of a tokenizer to make their tables."""
    return Vocabulary(
        encode_batch=functools.partial(encode_batch_exactly, tokenizer),
        encode_inside=functools.partial(encode_inside, tokenizer),
        decode=lambda ids: tokenizer.decode(list(ids)),
    )


def _refuse(text: str, decoded: str) -> None:
    agree = [a == b for a, b in zip(text, decoded, strict=False)]
    place = [*agree, False].index(False)
    if place == len(text):
        raise ValueError(f"the tokenizer adds {decoded[place:]!r} to {text!r}; use another one")
    raise ValueError(
        f"the tokenizer cannot spell {text[place]!r}, character {place} of {text[:80]!r}"
        f"{' ...' if len(text) > 80 else ''}; add it to the alphabet or use another tokenizer"
    )


def token_bytes(
    tokenizer: Tokenizer,
    *,
    size: int | None = None,  # of the model's output, which may exceed the vocabulary
) -> tuple[np.ndarray, np.ndarray]:  # u8[V, M], i32[V]
    """The bytes that each id stands for when the tokenizer decodes, and how many they are.

    Joined, they are the decoded text; only the blank that some tokenizers strip from the very
    start of a text stays. Special tokens and ids outside the vocabulary spell nothing. Known
    decoders: ByteLevel; Replace, Metaspace, ByteFallback and Fuse; none at all, which joins words
    by blanks. Any other raises ValueError, since its symbols have no bytes of their own.
    """
    spell = _unit_speller(json.loads(tokenizer.to_str())["decoder"])
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    V = max(vocabulary.values(), default=-1) + 1
    if size is not None:
        if size < V:
            raise ValueError(
                f"size={size} is less than the {V} ids of the tokenizer; give the number of logits "
                "of a model that was made for this tokenizer"
            )
        V = size
    spelled = [b""] * V
    for unit, i in vocabulary.items():
        if i not in special:
            spelled[i] = spell(unit)
    lengths = np.array([len(s) for s in spelled], np.int32)
    M = max(1, int(lengths.max(initial=0)))
    joined = b"".join(s.ljust(M, b"\0") for s in spelled)
    return np.frombuffer(joined, np.uint8).reshape(V, M).copy(), lengths


def _unit_speller(decoder: dict[str, Any] | None) -> Callable[[str], bytes]:
    """How a symbol of the vocabulary becomes bytes, step by step as the decoder does it."""
    if decoder is None:
        return lambda unit: f" {unit}".encode()
    steps = list(_steps(decoder))
    replacements = [(s["pattern"]["String"], s["content"]) for s in steps if s["type"] == "Replace"]
    replacements += [(s["replacement"], " ") for s in steps if s["type"] == "Metaspace"]
    kinds = {step["type"] for step in steps}
    byte_of = _byte_level_alphabet() if "ByteLevel" in kinds else {}

    def spell(unit: str) -> bytes:
        if byte_of and all(c in byte_of for c in unit):
            return bytes(byte_of[c] for c in unit)
        for pattern, content in replacements:
            unit = unit.replace(pattern, content)
        if "ByteFallback" in kinds and re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", unit):
            return bytes([int(unit[3:5], 16)])
        return unit.encode()

    return spell


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The decoder's steps that act on single symbols, flattened."""
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    fused = False
    for step in steps:
        if step["type"] == "Sequence":
            yield from _steps(step)
        elif step["type"] == "Fuse":
            fused = True
        elif step["type"] == "Strip" and fused and step["stop"] == 0:
            pass  # the blank at the very start of the text
        elif step["type"] in ("ByteLevel", "Metaspace", "ByteFallback") or (
            step["type"] == "Replace" and "String" in step["pattern"]
        ):
            yield step
        else:
            raise ValueError(
                f"the tokenizer decodes by {step['type']}, which changes a symbol's text by its "
                "neighbours; use a ByteLevel, Metaspace, byte-fallback or word-level tokenizer"
            )


def _byte_level_alphabet() -> dict[str, int]:
    """Which byte each character stands for in a ByteLevel vocabulary (GPT-2).

    Printable bytes stand for themselves; the others, in order, are the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
