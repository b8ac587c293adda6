"""Eight small tasks in text, learnt to strong competence by a base model, then watched for loss.

Which of them is asked is data, a weight each: one compiled program trains on the mixture, and by
weights of one 1 and seven 0 evaluates each alone.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.ops.sequences import append
from rlrazor.ops.spelling import spell
from rlrazor.tasks.procedural import pieces, split
from rlrazor.tasks.procedural.pieces import TASKS
from rlrazor.tasks.procedural.questions import (
    Question,
    Sizes,
    answer_pieces,
    draw_question,
    no_question,
)
from rlrazor.tasks.protocol import Observation, Verdict
from rlrazor.types import Vocabulary

# Draws for a question of the wanted part. One in ten is held out, so one draw in 1e46 runs out of
# them and keeps a question of the other part.
ATTEMPTS = 1024
DEFAULT_SIZES = Sizes()
_BLANKS = tuple(b" \t\n\r")


@struct.dataclass
class ProceduralState:
    """One question."""

    task: jax.Array  # i32[] index into TASKS
    asked: jax.Array  # i32[Q] pieces
    answer: jax.Array  # i32[A] pieces
    terminated: jax.Array  # bool[] answered, right or wrong
    truncated: jax.Array  # bool[] never: there is one turn


@struct.dataclass
class Procedural:
    """The task; see tasks.protocol.Task for what its methods are."""

    weights: jax.Array  # f32[8] how often each of TASKS is asked; need not sum to 1
    part: jax.Array  # i32[] index into split.PARTS
    piece_tokens: jax.Array  # i32[V, M]
    piece_lengths: jax.Array  # i32[V]
    before: jax.Array  # i32[b] tokens that open a prompt
    behind: jax.Array  # i32[e] and those that close it, before the answer
    sizes: Sizes = struct.field(pytree_node=False)
    question_size: int = struct.field(pytree_node=False)  # tokens
    demonstration_size: int = struct.field(pytree_node=False)

    def reset(self, key: jax.Array) -> ProceduralState:
        """Draws a task by weight, then its questions until one is of the wanted part."""
        task_key, question_key = jax.random.split(key)
        task = jax.random.categorical(task_key, jnp.log(self.weights)).astype(jnp.int32)

        def unfit(draws: tuple[jax.Array, Question]) -> jax.Array:
            attempt, question = draws
            fits = split.belongs(question.asked, self.part)
            return (attempt == 0) | (~fits & (attempt < ATTEMPTS))

        def again(draws: tuple[jax.Array, Question]) -> tuple[jax.Array, Question]:
            attempt, _ = draws
            key = jax.random.fold_in(question_key, attempt)
            return attempt + 1, draw_question(key, task, self.sizes)

        start = jnp.int32(0), no_question(self.sizes)
        _, question = jax.lax.while_loop(unfit, again, start)
        no = jnp.bool_(False)
        return ProceduralState(task, question.asked, question.answer, terminated=no, truncated=no)

    def opening(self, state: ProceduralState) -> Observation:
        """The question."""
        size = len(self.before) + self.question_size + len(self.behind)
        asked = spell(state.asked, self.piece_tokens, self.piece_lengths, self.question_size)
        row = jnp.zeros(size, jnp.int32), jnp.int32(0)
        row = append(row, self.before, len(self.before))
        return Observation(*append(append(row, *asked), self.behind, len(self.behind)))

    def reply(self, state: ProceduralState) -> Observation:
        """Nothing: a question is answered once."""
        return Observation(jnp.zeros(1, jnp.int32), jnp.int32(0))

    def step(
        self,
        state: ProceduralState,
        answer: jax.Array,  # u8[T] bytes; a zero ends them
    ) -> tuple[ProceduralState, Verdict]:
        """Judges the one answer, which is 1 if it is the right bytes between blanks, and else 0.

        Failures, of which a wrong answer has one: `no_answer`, nothing but blanks; `wrong_answer`,
        anything else; `over_budget`, a second answer, which is not judged.
        """
        over = state.terminated | state.truncated
        expected, length = self._answer(state)
        found, same = _compare(answer, expected, length)
        correct = found & same & ~over
        failures = {
            "no_answer": ~found & ~over,
            "wrong_answer": found & ~same & ~over,
            "over_budget": over,
        }
        ended = dataclasses.replace(state, terminated=state.terminated | ~over)
        return ended, Verdict(correct.astype(jnp.float32), correct, failures)

    def demonstrate(
        self, key: jax.Array | None, state: ProceduralState
    ) -> tuple[jax.Array, jax.Array]:
        """The one right answer: i32[demonstration_size] tokens zero padded, i32[]."""
        size = self.demonstration_size
        return spell(state.answer, self.piece_tokens, self.piece_lengths, size)

    def answer_bytes(self, state: ProceduralState) -> jax.Array:  # u8[n] zero padded
        """The right answer as the judge reads it."""
        return self._answer(state)[0]

    def _answer(self, state: ProceduralState) -> tuple[jax.Array, jax.Array]:  # u8[n], i32[]
        table, lengths = pieces.byte_table()
        return spell(state.answer, table, lengths, answer_pieces(self.sizes))  # a byte a piece


def _compare(
    answer: jax.Array,  # u8[T]
    expected: jax.Array,  # u8[n]
    length: jax.Array,  # i32[] of what is expected
) -> tuple[jax.Array, jax.Array]:  # bool[], bool[]
    """Whether there is anything but blanks, and whether it is what is expected."""
    answer = jnp.pad(answer, (0, 1))  # an end, even to an answer of no bytes
    T, n = len(answer), len(expected)
    alive = jnp.cumsum(answer == 0) == 0
    blank = (answer[:, None] == jnp.asarray(_BLANKS, answer.dtype)[None]).any(axis=1)
    solid = alive & ~blank
    first, last = jnp.argmax(solid), T - 1 - jnp.argmax(solid[::-1])
    place = jnp.arange(n)
    read = answer[jnp.minimum(first + place, T - 1)]
    same = jnp.all((read == expected) | (place >= length)) & (last - first + 1 == length)
    return solid.any(), same


def make_procedural(
    vocabulary: Vocabulary,
    *,
    weights: Sequence[float] | np.ndarray,  # [8] in the order of TASKS
    part: str,
    sizes: Sizes = DEFAULT_SIZES,
) -> Procedural:
    """Makes the task's tables. All that a user can get wrong raises ValueError here."""
    if part not in split.PARTS:
        raise ValueError(f"part={part!r} must be one of {', '.join(split.PARTS)}")
    tokens, lengths = pieces.piece_table(vocabulary)
    question_size, demonstration_size = _longest(np.asarray(lengths), sizes)
    return Procedural(
        weights=_checked_weights(weights),
        part=jnp.int32(split.PARTS.index(part)),
        piece_tokens=tokens,
        piece_lengths=lengths,
        before=jnp.asarray(vocabulary.around[0], jnp.int32),
        behind=jnp.asarray(vocabulary.around[1], jnp.int32),
        sizes=sizes,
        question_size=question_size,
        demonstration_size=demonstration_size,
    )


def _checked_weights(weights: Sequence[float] | np.ndarray) -> jax.Array:  # f32[8]
    try:
        numbers = np.asarray(weights, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"weights={weights!r} must be {len(TASKS)} numbers") from error
    fine = numbers.shape == (len(TASKS),) and np.isfinite(numbers).all() and (numbers >= 0).all()
    if not fine or numbers.max() == 0:
        raise ValueError(
            f"weights={weights!r} must be {len(TASKS)} numbers, none negative and one or more "
            f"positive, for {', '.join(TASKS)}"
        )
    numbers = numbers / numbers.max()  # neither a huge nor a tiny sum is lost in f32
    return jnp.asarray(numbers / numbers.sum(), jnp.float32)


def _longest(widths: np.ndarray, sizes: Sizes) -> tuple[int, int]:
    """Tokens of the longest question and answer, by the table's lengths."""
    digit, letter, word = (
        int(widths[first : first + count].max())
        for first, count in (
            (pieces.FIRST_DIGIT, 10),
            (pieces.FIRST_LETTER, pieces.ITEMS),
            (pieces.FIRST_WORD, len(TASKS)),
        )
    )
    blank, within, end = (int(widths[piece]) for piece in (pieces.BLANK, pieces.IN, pieces.END))
    items = sizes.longest * max(digit, letter) + (sizes.longest - 1) * blank
    numbers = 2 * sizes.digits * digit + blank
    question = word + max(numbers, letter + within + items) + end
    return question, max((sizes.digits + 1) * digit, items)
