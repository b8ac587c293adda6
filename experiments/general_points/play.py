"""What scripts, notebooks and benchmarks of GeneralPoints share: arrays as text, and back."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from rlrazor.runtime.mesh import compile_once
from rlrazor.runtime.tokenizer import build_closed_tokenizer, vocabulary
from rlrazor.tasks.general_points.leak import AFTER, BEFORE
from rlrazor.tasks.general_points.pieces import PIECES
from rlrazor.tasks.general_points.prompts import CLOSED_CHARACTERS, closed_phrases
from rlrazor.tasks.general_points.rule import RANKS, SUITS, Rule
from rlrazor.tasks.general_points.solver import distinct, formula_pieces, solutions
from rlrazor.tasks.general_points.task import GeneralPoints, PointsState
from rlrazor.types import Vocabulary

LONGEST_ANSWER = 256  # bytes; any answer in the expert's style is shorter


def closed_vocabulary(
    templates: Sequence[str],
    sentences: Iterable[str],  # such as feedback.SENTENCES.values()
    others: Iterable[str] = (),  # phrases of other tasks
) -> tuple[Tokenizer, Vocabulary]:
    """A few hundred symbols that spell any printable ASCII text, and these texts in a few tokens.

    The words of leaking feedback around what they give away are symbols too.
    """
    leaking = (f"\n{BEFORE}", f"{AFTER}\n")
    phrases = [*closed_phrases(templates, tuple(sentences)), *leaking, *others]
    tokenizer = build_closed_tokenizer(phrases, CLOSED_CHARACTERS)
    return tokenizer, vocabulary(tokenizer)


def pack_texts(
    texts: Sequence[bytes | str],
    size: int,
) -> np.ndarray:  # u8[N, size] zero padded
    """Texts as the verifier reads them, one a row; ValueError if one is longer than `size`."""
    rows = [text.encode() if isinstance(text, str) else text for text in texts]
    longest = max(map(len, rows), default=0)
    if longest > size:
        raise ValueError(f"a text has {longest} bytes; give size={longest} or more")
    joined = b"".join(row.ljust(size, b"\0") for row in rows)
    return np.frombuffer(joined, np.uint8).reshape(len(rows), size).copy()


def text_of(
    vocabulary: Vocabulary,
    tokens: jax.Array,  # i32[T]
    length: jax.Array,  # i32[]
) -> str:
    """What the first `length` tokens say."""
    return vocabulary.decode(np.asarray(tokens)[: int(length)].tolist())


def card_names(
    ranks: jax.Array,  # i32[C]
    suits: jax.Array,  # i32[C]
) -> list[str]:
    """Such as "Q of hearts"."""
    pairs = zip(np.asarray(ranks).tolist(), np.asarray(suits).tolist(), strict=True)
    return [f"{RANKS[rank - 1]} of {SUITS[suit]}" for rank, suit in pairs]


def formulas(
    ranks: jax.Array,  # i32[C]
    rule: Rule,
) -> list[str]:
    """Every distinct solution of a hand under a rule, as text with minimal brackets."""
    numbers = jnp.asarray(rule.values, jnp.int32)[ranks - 1]
    names = jnp.stack(jnp.nonzero(_solve(numbers, rule.target)))  # i32[3, N]
    written = _write_each(numbers, *names)
    return ["".join(PIECES[piece] for piece in row) for row in np.asarray(written).tolist()]


@compile_once
def _solve(numbers: jax.Array, target: int) -> jax.Array:  # bool[P, S, K]
    return distinct(numbers, solutions(numbers, target))


@compile_once
def _write_each(numbers, *names):
    return jax.vmap(formula_pieces, in_axes=(None, 0, 0, 0))(numbers, *names)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What became of an answer."""

    correct: bool
    reward: float
    failures: tuple[str, ...]
    words: str  # the verifier's before the next turn; empty after a correct answer


def judge(
    task: GeneralPoints,
    state: PointsState,
    answers: Sequence[str],
    vocabulary: Vocabulary,
) -> list[Judged]:
    """Judges every answer as if it were the next one, each for itself."""
    texts = jnp.asarray(pack_texts(answers, LONGEST_ANSWER))
    states, verdicts = jax.device_get(_step_each(task, state, texts))
    return [
        Judged(
            correct=bool(verdicts.correct[i]),
            reward=float(verdicts.reward[i]),
            failures=tuple(name for name, flag in verdicts.failures.items() if flag[i]),
            words=text_of(vocabulary, states.words[i], states.words_length[i]),
        )
        for i in range(len(answers))
    ]


@compile_once
def _step_each(task, state, texts):
    return jax.vmap(task.step, in_axes=(None, 0))(state, texts)
