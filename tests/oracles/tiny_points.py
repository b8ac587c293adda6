"""GeneralPoints small enough to play in tests: a closed vocabulary, tables made once, few shapes.

The programs take the task as an argument, so that all tasks of one shape share a compilation.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.runtime import tokenizer as tk
from rlrazor.tasks.general_points import leak, prompts, released
from rlrazor.tasks.general_points.deck import Hand
from rlrazor.tasks.general_points.feedback import SENTENCES
from rlrazor.tasks.general_points.prompt_table import hand_row
from rlrazor.tasks.general_points.rewards import PAPER, PAPER_VISUAL
from rlrazor.tasks.general_points.rule import FACES_AS_TEN, FACES_IN_ORDER, RANKS, Rule
from rlrazor.tasks.general_points.task import GeneralPoints, make_general_points, make_look
from tests.oracles import spoken

AS_TEN = dataclasses.replace(FACES_AS_TEN, cards=3)
IN_ORDER = dataclasses.replace(FACES_IN_ORDER, cards=3)
FIVE_CARDS = Rule(values=(2,) * 10 + (3, 4, 7), cards=5)  # few different hands to solve
TEXTS = (*prompts.FROZEN_TEXT, "text_diverse_2", "text_diverse_4")
IMAGES = (*prompts.FROZEN_IMAGE, "image_diverse_2", "image_diverse_4")
T = 160  # bytes of an answer

# Compiling is most of what these tests cost, running next to nothing.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
reset = jit(lambda task, key: task.reset(key))
observe = jit(spoken.observe)
observes = jit(lambda task, states: jax.vmap(lambda state: spoken.observe(task, state))(states))
step = jit(lambda task, state, answer: task.step(state, answer))
demonstrate = jit(
    lambda task, keys, states: jax.vmap(
        lambda key, state: task.demonstrate(key, state, jnp.ones(task.deck.cards, jnp.int32))
    )(keys, states)
)
resets = jit(lambda task, keys: jax.vmap(task.reset)(keys))
steps = jit(lambda task, states, answers: jax.vmap(task.step)(states, answers))


def templates(visual=False, wordings=3):
    names = IMAGES if visual else TEXTS
    return [prompts.load_template(name, visual=visual) for name in names[:wordings]]


@functools.cache
def tokenizer(characters=prompts.CLOSED_CHARACTERS):
    phrases = prompts.closed_phrases(templates() + templates(visual=True), list(SENTENCES.values()))
    words = ["\n" + leak.BEFORE, leak.AFTER + "\n"]
    kept = [phrase for phrase in phrases + words if set(phrase) <= set(characters)]
    return tk.build_closed_tokenizer(kept, characters)


@functools.cache
def vocabulary():
    return tk.vocabulary(tokenizer())


@functools.cache
def look(cards=3, height=24, card_height=20):
    return make_look(cards, height=height, width=20 * cards, card_height=card_height)


@functools.cache
def make(rule=AS_TEN, *, visual=False, wordings=3, refusals=False, **options) -> GeneralPoints:
    """A task of the study's settings; `refusals` gives it the released code's rewards."""
    rewards = released.find_refusals(rule) if refusals else PAPER_VISUAL if visual else PAPER
    settings = {
        "templates": templates(visual, wordings),
        "rewards": rewards,
        "budget": 3,
        "look": look(rule.cards) if visual else None,
        **options,
    }
    return make_general_points(rule, vocabulary(), **settings)


def with_hand(state, ranks, suits=None):
    """The state with another hand on the table."""
    ranks = jnp.array(ranks, jnp.int32)
    suits = jnp.zeros_like(ranks) if suits is None else jnp.array(suits, jnp.int32)
    return dataclasses.replace(state, hand=Hand(hand_row(ranks), ranks, suits))


def start(task, ranks):
    return with_hand(reset(task, jax.random.key(0)), ranks)


def answer(formula, ranks, rule=AS_TEN):
    """The documented text of an answer that reads its cards right."""
    cards = ", ".join(f'"{RANKS[rank - 1]}"' for rank in ranks)
    number = ", ".join(str(rule.values[rank - 1]) for rank in ranks)
    return f'{{"cards": [{cards}], "number": [{number}], "formula": "{formula}"}}'


def as_bytes(*texts, size=T):  # u8[len(texts), T]
    rows = np.zeros((len(texts), size), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        code = text if isinstance(text, bytes) else text.encode()
        row[: len(code)] = list(code)
    return rows


def play(task, state, text):
    return step(task, state, as_bytes(text)[0])


def decoded(tokens, length):
    """The text, of tokens that are zero beyond it."""
    tokens = np.asarray(tokens)
    assert not tokens[int(length) :].any()
    return tokenizer().decode(tokens[: int(length)].tolist())


def said(task, state):
    observation = observe(task, state)
    return decoded(observation.tokens, observation.length)


def set_flags(verdict):
    return {name for name, flag in verdict.failures.items() if flag}
