"""Tokenizers of the three common families, small enough to train or write down in a test."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

END = AddedToken("<|end|>", special=True, normalized=False)
TEXTS = [
    'Hand: ["A", "8", "3", "K"], number [1, 8, 3, 13], formula 8/(3-8/3)=24\n' * 3,
    "J counts 11, Q counts 12 and K counts 13.\n\tYou failed this trial because naïve 日本 €\n" * 3,
]


def byte_level(vocab_size=330):
    """GPT-2's family: every byte has a character, words are split by a pattern, pairs merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([END])
    tokenizer.add_tokens(["<|tool|>"])
    return tokenizer


def byte_fallback(*, prepend=False):
    """SentencePiece's family: blanks are U+2581, unknown characters fall back to their bytes."""
    units = [f"<0x{b:02X}>" for b in range(256)]
    units += ["▁", *'ABC8()[]"{}:,', "▁A", "(8", "▁▁"]
    merges = [("▁", "A"), ("(", "8"), ("▁", "▁")]
    vocabulary = {unit: i for i, unit in enumerate(units)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prepend:  # as Llama-2 does
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([END])
    return tokenizer


def metaspace():
    """The same with one decoder that also strips the first blank."""
    tokenizer = byte_fallback()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return tokenizer


def words(vocabulary):
    """Whole words, joined by blanks."""
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
