"""The verifier's words before the next turn: one sentence, by the first failure that applies.

No sentence says anything about the solution beyond what was wrong with the answer.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.tasks.spelled import tabulate

SENTENCES: dict[str, str] = {  # in order: the first failure speaks, from reading to reckoning
    "no_object": "You failed this trial because the reply has no complete JSON object.",
    "malformed_field": (
        "You failed this trial because the JSON object does not hold exactly a list of cards, a "
        "list of numbers and a formula."
    ),
    "cards_misread": "You failed this trial because the cards you named are not those shown.",
    "illegal_formula": "You failed this trial because the formula cannot be read.",
    "number_not_on_cards": (
        "You failed this trial because the formula has a number that is on none of the cards."
    ),
    "card_reused": "You failed this trial because the formula uses a card more than once.",
    "card_unused": "You failed this trial because the formula leaves a card out.",
    "wrong_right_side": (
        "You failed this trial because the formula equals the target, but what you wrote behind "
        "the equals sign does not."
    ),
    "wrong_value": "You failed this trial because the formula does not equal the target.",
}
# Before the right side had a sentence: the words of the study's vocabulary and published numbers.
STUDY_SENTENCES = {name: text for name, text in SENTENCES.items() if name != "wrong_right_side"}
FAILURES = tuple(SENTENCES)
SEEN_ONLY = "cards_misread"  # said of pictures only: a text names the cards


@struct.dataclass
class FeedbackTable:
    """The tokens of every sentence. Row 0 is empty, row 1 + i belongs to FAILURES[i]."""

    tokens: jax.Array  # i32[10, M] zero padded
    lengths: jax.Array  # i32[10]


def as_turn(sentence: str) -> str:
    """A sentence as it stands between two answers: on a line of its own."""
    return f"\n{sentence}\n"


def feedback_table(
    sentences: Mapping[str, str],
    encode: Callable[[str], Sequence[int]],
) -> FeedbackTable:
    """Tokenises one sentence for each failure; ValueError if one is missing or unknown.

    Without one for "wrong_right_side" that of "wrong_value" is said.
    """
    sentences = {"wrong_right_side": sentences.get("wrong_value", ""), **sentences}
    missing = [name for name in FAILURES if name not in sentences]
    unknown = [name for name in sentences if name not in FAILURES]
    if missing or unknown:
        raise ValueError(
            f"sentences {'lack' if missing else 'hold'} {', '.join(missing or unknown)}; give one "
            f"for each of {', '.join(FAILURES)}"
        )
    rows = [[], *(encode(as_turn(sentences[name])) for name in FAILURES)]
    return FeedbackTable(*tabulate(rows))


def choose_sentence(
    failures: Mapping[str, jax.Array],  # bool[] by name, at least FAILURES; others are not said
    visual: bool,  # whether the cards were shown as a picture
) -> jax.Array:  # i32[] row of FeedbackTable; 0 if nothing is to be said
    """The row of the first failure that applies, in the order of FAILURES."""
    applies = [failures[name] for name in FAILURES]
    if not visual:
        applies[FAILURES.index(SEEN_ONLY)] = jnp.zeros((), bool)
    flags = jnp.stack([jnp.asarray(flag, bool) for flag in applies])
    return jnp.where(jnp.any(flags), 1 + jnp.argmax(flags), 0).astype(jnp.int32)
