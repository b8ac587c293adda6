"""What a base can do: greedy answers under both rules of the study and to the prior tasks."""

from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from experiments.general_points.language import Player
from experiments.general_points.mixture import END
from experiments.rule_shift.arms import VARIANTS
from experiments.rule_shift.measure import PRIOR_ANSWER
from experiments.rule_shift.tasks import make_tests
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import compile_once
from rlrazor.runtime.tokenizer import token_bytes, vocabulary
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.tasks.procedural.pieces import TASKS as SUITES
from rlrazor.types import Params

ANSWER, ANSWER_BYTES = 32, 128  # tokens and bytes of an answer to GeneralPoints


def one(stacked: Any, place: int) -> Any:
    """A task of several in one."""
    return jax.tree.map(lambda leaf: leaf[place], stacked)


def score(
    model: Transformer, params: Params, tokenizer: Tokenizer, *, hands: int, seed: int
) -> dict[str, float]:
    """Success at the first answer of `hands` hands of each kind, and of as many questions."""
    table, lengths = token_bytes(tokenizer, size=model.config.vocabulary)
    spelling, stops = (jnp.asarray(table), jnp.asarray(lengths)), make_stops([[END]])
    player = Player(model, spelling, stops, ANSWER, ANSWER_BYTES)
    short = Player(model, spelling, stops, PRIOR_ANSWER, 2 * PRIOR_ANSWER)
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
