"""GeneralPoints compiles for a TPU v5e of eight chips, on a machine that has none.

Batches are spread over the chips and the compiler is left to divide the work; what it puts between
the chips is found in its text. Needs the `tpu` extra, as tpu_compile_test.py does.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.general_points.play import closed_vocabulary
from rlrazor.runtime.mesh import AXES
from rlrazor.tasks.general_points.deck import deal
from rlrazor.tasks.general_points.feedback import SENTENCES
from rlrazor.tasks.general_points.pictures import draw_hand
from rlrazor.tasks.general_points.prompts import load_template
from rlrazor.tasks.general_points.released import find_refusals
from rlrazor.tasks.general_points.rewards import PAPER_VISUAL
from rlrazor.tasks.general_points.rule import FACES_IN_ORDER
from rlrazor.tasks.general_points.solver import sample_solution
from rlrazor.tasks.general_points.task import make_general_points, make_look
from rlrazor.tasks.general_points.verifier import verify
from tests.oracles import spoken
from tests.oracles.topology import COLLECTIVE, NEEDS_TPU_COMPILER

pytestmark = NEEDS_TPU_COMPILER

B, T, C = 1024, 160, 4  # examples, bytes of an answer, cards
HEIGHT, WIDTH = 128, 224


@pytest.fixture(scope="module")
def compiled_text(mesh):
    """The program of `fn` over a batch: the first argument is shared, the others are spread."""

    def place(tree, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(lambda leaves: leaves, tree),
        )

    def compiled(fn, shared, *batch):
        over_batch = jax.vmap(fn, in_axes=(None, *[0] * len(batch)))
        arrays = [place(argument, P(AXES)) for argument in batch]
        program: Any = jax.jit(over_batch).lower(place(shared, P()), *arrays).compile()
        assert program.memory_analysis().temp_size_in_bytes < 12e9  # of 16 GB a chip
        return program.as_text()

    return compiled


@pytest.fixture(scope="module")
def make_task():
    """Tasks of the study's own size."""

    def make(kind):
        look = None
        if kind == "image":
            look = make_look(
                C, height=HEIGHT, width=WIDTH, card_height=72, shift=0.02, rotation=0.1, scale=0.1
            )
        template = load_template(f"{kind}_frozen", visual=look is not None)
        _, vocabulary = closed_vocabulary([template], SENTENCES.values())
        return make_general_points(
            FACES_IN_ORDER,
            vocabulary,
            templates=[template],
            rewards=PAPER_VISUAL if look else find_refusals(FACES_IN_ORDER),
            budget=5,
            look=look,
            leak=look is None,
        )

    return functools.cache(make)


KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B))
TEXTS = jax.ShapeDtypeStruct((B, T), jnp.uint8)
CARDS = jax.ShapeDtypeStruct((B, C), jnp.int32)
VALUES, TARGET = jnp.asarray(FACES_IN_ORDER.values), jnp.int32(FACES_IN_ORDER.target)


def test_verifier(compiled_text):
    """Answers never meet, so no chip waits for another."""

    def judge(rule, text, ranks):
        findings = verify(text, ranks, *rule)
        return {**findings.failures, "correct": findings.correct}

    text = compiled_text(judge, (VALUES, TARGET), TEXTS, CARDS)
    assert not COLLECTIVE.search(text)


def test_deal(compiled_text, make_task):
    text = compiled_text(lambda deck, key: deal(key, deck), make_task("text").deck, KEYS)
    assert not COLLECTIVE.search(text)


def test_drawing(compiled_text, make_task):
    def draw(look, ranks, suits):
        return draw_hand(look.atlas, ranks, suits, look.tidy, height=HEIGHT, width=WIDTH)

    assert not COLLECTIVE.search(compiled_text(draw, make_task("image").look, CARDS, CARDS))


def test_sample_solution(compiled_text):
    def sample(target, key, numbers):
        return sample_solution(key, numbers, target, jnp.ones(C, jnp.int32))

    assert not COLLECTIVE.search(compiled_text(sample, TARGET, KEYS, CARDS))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_turn_of_the_task(compiled_text, make_task, kind):
    """Deal, say and show, judge an answer, and say what was wrong with it."""

    def turn(task, key, answer):
        state = task.reset(key)
        before = spoken.observe(task, state)
        state, verdict = task.step(state, answer)
        return before, state, verdict, spoken.observe(task, state)

    assert not COLLECTIVE.search(compiled_text(turn, make_task(kind), KEYS, TEXTS))


def test_demonstrate(compiled_text, make_task):
    def demonstrate(task, key):
        return task.demonstrate(key, task.reset(key), jnp.ones(C, jnp.int32))

    assert not COLLECTIVE.search(compiled_text(demonstrate, make_task("text"), KEYS))


def test_the_search_for_collectives_finds_one(mesh):
    spread, single = NamedSharding(mesh, P(AXES)), NamedSharding(mesh, P())
    total: Any = jax.jit(jnp.sum, out_shardings=single)
    numbers = jax.ShapeDtypeStruct((B,), jnp.float32, sharding=spread)
    assert COLLECTIVE.search(total.lower(numbers).compile().as_text())
