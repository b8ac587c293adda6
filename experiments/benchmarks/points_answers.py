"""Answers to time verifiers on: hands dealt and solved on the device, then written out.

Half are right. Of the others, one thing in the formula was changed: an operator, a number, or a
bracket, so that they end as a wrong value, as wrong numbers or as no formula at all.
"""

import dataclasses
import functools
import random
import re

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.ops.spelling import spell
from rlrazor.runtime.mesh import compile_once
from rlrazor.tasks.general_points import pieces
from rlrazor.tasks.general_points.deck import Deck, deal
from rlrazor.tasks.general_points.rule import Rule
from rlrazor.tasks.general_points.solver import sample_solution

TOKEN = re.compile(r"[0-9]+|[-+*/()]")
BEFORE_FORMULA = '"formula": "'


@dataclasses.dataclass(frozen=True)
class Answers:
    texts: list[str]
    ranks: np.ndarray  # i32[N, C] the hand that each is an answer to


def expert_answers(rule: Rule, deck: Deck, count: int, *, seed: int) -> Answers:
    """Answers as an expert writes them, half of them then spoilt."""
    table, lengths = pieces.byte_table()
    values, size = jnp.asarray(rule.values), pieces.longest_answer(lengths, rule)
    target = jnp.int32(rule.target)

    def answer(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        hand_key, formula_key = jax.random.split(key)
        ranks = deal(hand_key, deck).ranks
        numbers = values[ranks - 1]
        formula = sample_solution(formula_key, numbers, target, jnp.ones(rule.cards, jnp.int32))
        answer = pieces.expert_answer(ranks, numbers, formula, target)
        return ranks, spell(answer, table, lengths, size)[0]

    keys = jax.random.split(jax.random.key(seed), count)
    ranks, rows = compile_once(functools.partial(jax.lax.map, answer))(keys)
    rng = random.Random(seed)
    texts = [bytes(row).rstrip(b"\0").decode() for row in np.asarray(rows)]
    spoilt = [_spoil(rng, text) if n % 2 else text for n, text in enumerate(texts)]
    return Answers(spoilt, np.asarray(ranks))


def lengthen(answers: Answers, size: int, *, seed: int) -> Answers:
    """The same answers with formulas of exactly `size` bytes, by needless brackets and blanks."""
    rng = random.Random(seed)
    texts = []
    for text in answers.texts:
        head, formula = _split(text)
        left, right = formula.split("=")
        tokens, missing = TOKEN.findall(left), size - len(formula)
        while missing > 0:
            place = rng.randrange(len(tokens))
            if missing > 1 and tokens[place].isdigit() and rng.random() < 0.7:
                tokens[place : place + 1] = ["(", tokens[place], ")"]
                missing -= 2
            else:
                tokens.insert(place, " ")
                missing -= 1
        texts.append(f'{head}{"".join(tokens)}={right}"}}')
    return Answers(texts, answers.ranks)


def _split(text: str) -> tuple[str, str]:
    """The answer up to its formula, and the formula."""
    head, formula = text.split(BEFORE_FORMULA)
    return head + BEFORE_FORMULA, formula.removesuffix('"}')


def _spoil(rng: random.Random, text: str) -> str:
    head, formula = _split(text)
    left, right = formula.split("=")
    tokens = TOKEN.findall(left)
    number = rng.choice([n for n, token in enumerate(tokens) if token.isdigit()])
    operator = rng.choice([n for n, token in enumerate(tokens) if token in "+-*/"])
    match rng.randrange(4):
        case 0:
            tokens[number] = str(rng.randint(1, 13))
        case 1:
            tokens.insert(number, "(")
        case _:
            tokens[operator] = rng.choice("+-*/".replace(tokens[operator], ""))
    return f'{head}{"".join(tokens)}={right}"}}'
