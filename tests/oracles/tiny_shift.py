"""The rule-shift study small enough for tests.

A config for the real study with a base that knows nothing, and, where hands of cards would take
longer to compile than to test, a toy task that pays for any answer by a sum.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from configs.sft_memorizes_gp_l import METHODS, get_config
from experiments.general_points.base import Base
from experiments.general_points.language import END, Player, make_player
from experiments.general_points.mixture import small_vocabulary
from experiments.rule_shift.arms import ARMS
from experiments.rule_shift.objectives import Context
from experiments.rule_shift.programs import Given, build_run
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.models.value_head import ValueHead
from rlrazor.runtime.mesh import compile_once, make_mesh
from rlrazor.sampling.decode import make_stops
from rlrazor.tasks.protocol import Observation, Verdict
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
    config.rows, config.samples, config.minibatches = 24, 4, 2
    config.answer_tokens = 5
    config.fixed_hands, config.diverse_rules = 3, 2
    config.learning_rates = dict.fromkeys(METHODS, (0.01,))
    config.objective.ppo.widths = (4,)
    config.measure.update(
        hands=16, questions=4, kl_prompts=16, turn_hands=16, turns=(1, 2, 3), pass_hands=6,
        pass_samples=8, pass_at=(1, 2, 8), turn_arms=("grpo",), pass_arms=("grpo",),
    )  # fmt: skip
    config.mesh.data = 1
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    return config


@functools.cache
def base():
    """A base for the real study that was never trained."""
    tokenizer, _ = small_vocabulary()
    model, params = tiny_transformers.make(
        TransformerConfig(vocabulary=tokenizer.get_vocab_size(), **SHAPE)
    )
    return Base(model, params, tokenizer, {"config": {"seed": 0}})


# The toy: two digits are named, any answer of digits is worth something.

V, FORMULA_TOKEN = 13, 12  # END; digits are 3 to 12; FORMULA_TOKEN spells 9 and is the "formula"
SPELLING = (
    jnp.array([[48 + max(token - 3, 0)] for token in range(V)], jnp.uint8),
    jnp.array([0, 0, 0] + [1] * (V - 3)),
)
FLAGS = ("no_object", "malformed_field", "cards_misread", "numbers_mistranslated")
DEMONSTRATION = 3


@struct.dataclass
class Sum:
    secret: jax.Array  # i32[] 0 to 99
    turn: jax.Array
    heard: jax.Array  # first byte of the last answer, or 0
    terminated: jax.Array
    truncated: jax.Array


@struct.dataclass
class DigitSum:
    """An answer's worth is its digits' sum plus the secret plus `shift`, modulo 4, times `pay`."""

    target: jax.Array  # i32[]; its leading axis is that of the rules
    shift: jax.Array
    budget: jax.Array
    pay: jax.Array  # f32[]

    @property
    def deck(self):
        return types.SimpleNamespace(cards=2)

    def reset(self, key):
        secret = jax.random.randint(key, (), 0, 100)
        over = jnp.bool_(False)
        return Sum(secret, jnp.int32(0), jnp.int32(0), over, over)

    def prompt(self, state):
        digits = 3 + jnp.stack([state.secret // 10, state.secret % 10])
        return Observation(jnp.append(digits, 1), 2 + state.secret % 2)

    def words(self, state):
        return Observation(
            jnp.stack([jnp.int32(1), 3 + state.heard % 10, jnp.int32(0)]), jnp.int32(2)
        )

    def observe(self, state):
        return jax.tree.map(
            lambda a, b: jnp.where(state.turn == 0, a, b), self.prompt(state), self.words(state)
        )

    def worth(self, state, answer):
        digits = jnp.where(answer > 0, answer.astype(jnp.int32) - 48, 0)
        return (jnp.sum(digits) + state.secret + self.shift) % 4

    def step(self, state, answer):
        worth = self.worth(state, answer)
        correct, turn = worth == 3, state.turn + 1
        new = Sum(
            state.secret, turn, answer[0].astype(jnp.int32), correct,
            ~correct & (turn >= self.budget),
        )  # fmt: skip
        flags = {name: (worth == i) & ~correct for i, name in enumerate(FLAGS)}
        return new, Verdict(worth * self.pay, correct, flags)

    def demonstrate(self, key, state, weights=None):
        length = 1 + jax.random.randint(key, (), 0, DEMONSTRATION)
        tokens = 3 + (state.secret + jnp.arange(DEMONSTRATION)) % 10
        return jnp.where(jnp.arange(DEMONSTRATION) < length, tokens, 0), length


def worth(secret, text, shift=0):
    """The toy's judge once more: in Python, on bytes."""
    return (sum(byte - 48 for byte in text) + secret + shift) % 4


def make_toy(shift=0, budget=1, pay=1.0):
    return DigitSum(jnp.int32(24), jnp.int32(shift), jnp.int32(budget), jnp.float32(pay))


def stacked(*tasks):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A toy study: policies of `V` tokens, and what plays them."""

    model: Transformer
    params: list  # of five random policies
    player: Player

    def context(self, config):
        widths = tuple(config.objective.ppo.widths)
        return Context(
            self.model, ValueHead(widths), config.objective, config.answer_tokens, FORMULA_TOKEN
        )


@functools.cache
def toy(stop=END, **changes):
    shape = TransformerConfig(vocabulary=V, **{**SHAPE, **changes})
    model = Transformer(shape)
    params = [tiny_transformers.make(shape, seed)[1] for seed in range(5)]
    return Toy(model, params, Player(model, SPELLING, make_stops([[stop]]), 5, answer_bytes=8))


def given(tasks=None, *, seed=0, learning_rate=1e-2, iterations=4):
    params = toy().params
    tasks = stacked(make_toy(budget=3)) if tasks is None else tasks
    return Given(
        tasks, params[0], params[1], jnp.float32(learning_rate), jnp.int32(iterations),
        jnp.int32(seed),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled programs of an arm on the toy."""

    initial: object
    iterate: object
    draw: object


def build(arm, *, stop=END, **changes):
    config = tiny_config(**changes)
    study = toy(stop)
    run = build_run(ARMS[arm], study.context(config), study.player, config, make_mesh(data=1))
    return Programs(*map(compile_once, (run.initial, run.iterate, run.draw)))


programs = functools.cache(build)


def rows_of(B=4, T=9, seed=0):
    """Random tokens, and masks over the last part of each row that vary in length."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (B, T)).astype(np.int32)
    start, size = rng.integers(2, 4, B), rng.integers(2, T - 4, B)
    place = np.arange(T)[None]
    mask = (place >= start[:, None]) & (place < (start + size)[:, None])
    return tokens, mask


def real_player(model, tokenizer, config):
    size = config.answer_tokens
    return make_player(model, tokenizer, answer_size=size, answer_bytes=4 * size)
