"""A whole model folder of a few kilobytes: weights, config.json, tokenizer and chat template."""

import dataclasses
import json

from rlrazor.models.pretrained import save_pretrained
from tests.oracles import tiny_chats, tiny_transformers
from tests.oracles.tiny_checkpoints import QWEN2


def save(folder, *, seed=0):
    """A Qwen2 of random weights, whose heads and widths two or four devices can share."""
    tokenizer = folder.with_name(folder.name + "-tokenizer")
    words = tiny_chats.save(tokenizer, "qwen", tiny_chats.CHATML, ends=("<|endoftext|>",))
    shape = dataclasses.replace(QWEN2, vocabulary=-(-len(words) // 8) * 8)
    _, params = tiny_transformers.make(shape, seed)
    save_pretrained(folder, shape, params)
    for path in tokenizer.iterdir():
        path.rename(folder / path.name)
    return folder


def sums(path, count=24):
    """A file of small sums, as questions and answers."""
    lines = [{"question": f"{n} + {n % 3}", "answer": f"It is {n + n % 3}."} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
