"""The rule-shift study small enough for tests: a config, and bases that know nothing."""

import functools

import jax

from configs.names import Names
from configs.sft_memorizes_gp_l import METHODS, get_config
from experiments.general_points.mixture import small_vocabulary
from experiments.rule_shift.base import Spoken, small_policy
from experiments.rule_shift.world import Speech
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.mesh import make_mesh
from rlrazor.runtime.tokenizer import END
from rlrazor.studies.language import Base
from tests.oracles import tiny_transformers

SHAPE = {
    "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_width": 16,
    "tied_head": True, "scan_layers": False,
}  # fmt: skip


def tiny_config(**changes):
    config = get_config("quick")
    config.arms = ("sft", "grpo")
    config.seeds = (0, 1)
    config.iterations = 4
    config.rows, config.samples, config.minibatches, config.rows_at_once = 24, 4, 2, 8
    config.answer_tokens = 5
    config.fixed_hands, config.diverse_rules = 3, 2
    config.learning_rates = Names(dict.fromkeys(METHODS, (0.01,)))
    config.measure.update(
        at_once=16, rows_at_once=8, hands=16, questions=4, kl_prompts=16, turn_hands=16,
        turns=(1, 2, 3), pass_hands=6, pass_samples=8, pass_at=(1, 2, 8), turn_arms=("grpo",),
        pass_arms=("grpo",),
    )  # fmt: skip
    config.mesh.data = 1
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    return config


@functools.cache
def spoken(answer_tokens=5):
    """A base in the closed vocabulary that was never trained."""
    tokenizer, words = small_vocabulary()
    shape = TransformerConfig(vocabulary=tokenizer.get_vocab_size(), **SHAPE)
    _, params = tiny_transformers.make(shape)
    policy = small_policy(
        shape, tokenizer, make_mesh(data=1), answer_tokens=answer_tokens, temperature=1.0
    )
    params = jax.tree.map(jax.numpy.asarray, params)
    return Spoken(Base("tiny", policy, params), policy, Speech(words, END, 9))
