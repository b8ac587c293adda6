"""What a base can do: greedy answers under both rules of the study and to the prior tasks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from experiments.general_points.language import Player, make_player
from experiments.rule_shift.arms import VARIANTS
from experiments.rule_shift.measure import PRIOR_ANSWER
from experiments.rule_shift.tasks import make_tests
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import compile_once
from rlrazor.runtime.tokenizer import vocabulary
from rlrazor.sampling.decode import Sampling
from rlrazor.tasks.procedural.pieces import TASKS as SUITES
from rlrazor.types import Params

ANSWER = 32  # tokens of an answer to GeneralPoints


def one(stacked: Any, place: int) -> Any:
    """A task of several in one."""
    return jax.tree.map(lambda leaf: leaf[place], stacked)


def score(
    model: Transformer, params: Params, tokenizer: Tokenizer, *, hands: int, seed: int
) -> dict[str, float]:
    """Success at the first answer of `hands` hands of each kind, and of as many questions."""
    player = make_player(model, tokenizer, answer_size=ANSWER, answer_bytes=4 * ANSWER)
    short = dataclasses.replace(player, answer_size=PRIOR_ANSWER, answer_bytes=2 * PRIOR_ANSWER)
    key = jax.random.fold_in(jax.random.key(seed), 98)  # no other use of the seed draws from it
    keys = jax.random.split(key, hands)

    def success(by: Player):
        def rate(params, task, temperature):
            played = by.play(params, task, keys, Sampling(temperature), turns=1)
            return jnp.mean(played.verdict.correct)

        return compile_once(rate)

    points, questions = success(player), success(short)
    found = {}
    for name, variant in (("", VARIANTS["main"]), ("formula alone, ", VARIANTS["terse"])):
        tests = make_tests(variant, vocabulary(tokenizer))
        for rule, task in (("J Q K = 10", tests.new), ("J Q K = 11 12 13", tests.ood)):
            found[f"{name}{rule}, greedy"] = points(params, task, 0.0)
            found[f"{name}{rule}, sampled"] = points(params, task, 1.0)
    for place, suite in enumerate(SUITES):
        found[f"prior {suite}, greedy"] = questions(params, one(tests.prior, place), 0.0)
    return {name: float(value) for name, value in found.items()}
