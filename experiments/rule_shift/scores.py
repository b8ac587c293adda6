"""What a base can do: greedy answers under both rules of the study and to the prior tasks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from experiments.rule_shift.arms import VARIANTS
from experiments.rule_shift.base import small_policy
from experiments.rule_shift.tasks import make_tests
from experiments.rule_shift.world import answering
from rlrazor.models.transformer import Transformer
from rlrazor.policies.language import LanguagePolicy
from rlrazor.runtime.mesh import compile_once, make_mesh
from rlrazor.runtime.tokenizer import vocabulary
from rlrazor.sampling.decode import Sampling
from rlrazor.studies.device import sampled
from rlrazor.tasks.procedural.pieces import TASKS as SUITES
from rlrazor.types import Params

ANSWER, PRIOR_ANSWER = 32, 12  # tokens of an answer to GeneralPoints, and to a prior task


def one(stacked: Any, place: int) -> Any:
    """A task of several in one."""
    return jax.tree.map(lambda leaf: leaf[place], stacked)


def make_score(
    model: Transformer, tokenizer: Tokenizer, *, hands: int
) -> Callable[[Params, int], dict[str, float]]:
    """`(params, seed) -> scores`, compiled once for all bases.

    Success at the first answer of `hands` hands of each kind, and of as many questions.
    """
    policy = small_policy(
        model.config, tokenizer, make_mesh(data=1), answer_tokens=ANSWER, temperature=1.0
    )

    def success(by: LanguagePolicy):
        def rate(params, task, keys, temperature):
            played = sampled(params, by, task, keys, Sampling(temperature), turns=1)
            return jnp.mean(played.verdict.correct)

        return compile_once(rate)

    points, questions = success(policy), success(answering(policy, PRIOR_ANSWER))

    def score(params: Params, seed: int) -> dict[str, float]:
        key = jax.random.fold_in(jax.random.key(seed), 98)  # no other use of the seed draws from it
        keys = jax.random.split(key, hands)
        found = {}
        for name, variant in (("", VARIANTS["main"]), ("formula alone, ", VARIANTS["terse"])):
            tests = make_tests(variant, vocabulary(tokenizer))
            for rule, task in (("J Q K = 10", tests.new), ("J Q K = 11 12 13", tests.ood)):
                found[f"{name}{rule}, greedy"] = points(params, task, keys, 0.0)
                found[f"{name}{rule}, sampled"] = points(params, task, keys, 1.0)
        for place, suite in enumerate(SUITES):
            asked = questions(params, one(tests.prior, place), keys, 0.0)
            found[f"prior {suite}, greedy"] = asked
        return {name: float(value) for name, value in found.items()}

    return score
