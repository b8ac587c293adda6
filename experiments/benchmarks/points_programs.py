"""The compiled side of the GeneralPoints benchmark: judge, deal and draw, on all devices."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlrazor.runtime.mesh import map_runs, replicate, shard_runs
from rlrazor.tasks.general_points.atlas import make_atlas
from rlrazor.tasks.general_points.deck import Deck, Hand, deal
from rlrazor.tasks.general_points.pictures import draw_hand, jitter, lay_out
from rlrazor.tasks.general_points.rule import Rule
from rlrazor.tasks.general_points.verifier import verify

HEIGHT, WIDTH, CARD_HEIGHT = 128, 224, 72  # pixels


class Program:
    """`fn(run, None, shared)` compiled over runs on all devices, to be called with these again.

    `count` is how many things a call does, which is what it is timed for.
    """

    def __init__(self, fn: Callable, mesh: Mesh, runs: Any, shared: Any, *, count: int):
        self.count = count
        self._arguments = shard_runs(runs, mesh), None, replicate(shared, mesh)
        mapped: Any = map_runs(fn, mesh)
        start = time.perf_counter()
        self._compiled = mapped.lower(*self._arguments).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> Any:
        return jax.block_until_ready(self._compiled(*self._arguments))


def judging(
    rows: np.ndarray,  # u8[N, T] different answers, repeated as often as it takes
    ranks: np.ndarray,  # i32[N, C]
    rule: Rule,
    mesh: Mesh,
    *,
    at_once: int,  # answers, on a device
    batches: int,  # of so many answers one after the other, on a device and in a call
) -> Program:
    """A call returns every flag, bool[R, at_once], of the answers again and again, in order."""
    many = mesh.size * batches, at_once
    which = np.resize(np.arange(len(rows)), many)
    shared = jnp.asarray(rule.values), jnp.int32(rule.target)
    return Program(judge_many, mesh, (rows[which], ranks[which]), shared, count=which.size)


def dealing(deck: Deck, mesh: Mesh, *, hands: int) -> Program:
    keys = jax.random.split(jax.random.key(1), (mesh.size, -(-hands // mesh.size)))
    return Program(deal_many, mesh, keys, deck, count=keys.size)


def drawing(deck: Deck, mesh: Mesh, *, hands: int) -> Program:
    """One picture after another on a CPU, all side by side on an accelerator."""
    keys = jax.random.split(jax.random.key(2), mesh.size * -(-hands // mesh.size))
    tidy = lay_out(deck.cards, HEIGHT, WIDTH, CARD_HEIGHT)
    shared = deck, make_atlas(CARD_HEIGHT), tidy
    return Program(deal_and_draw, mesh, keys, shared, count=keys.size)


def judge_many(
    answers: tuple[jax.Array, jax.Array],  # u8[N, T] texts, i32[N, C] ranks
    _: None,
    rule: tuple[jax.Array, jax.Array],  # i32[13] values, i32[] target
) -> dict[str, jax.Array]:  # bool[N] each flag
    findings = jax.vmap(verify, in_axes=(0, 0, None, None))(*answers, *rule)
    return {**findings.failures, "correct": findings.correct}


def deal_many(
    keys: jax.Array,  # [N]
    _: None,
    deck: Deck,
) -> Hand:
    return jax.vmap(deal, in_axes=(0, None))(keys, deck)


def deal_and_draw(key: jax.Array, _: None, shared: tuple) -> jax.Array:  # u8[H, W, 3]
    """One hand, every card moved, turned and resized a little."""
    deck, atlas, tidy = shared
    hand_key, look_key = jax.random.split(key)
    hand = deal(hand_key, deck)
    placement = jitter(look_key, tidy, shift=0.02, rotation=0.1, scale=0.1)
    return draw_hand(atlas, hand.ranks, hand.suits, placement, height=HEIGHT, width=WIDTH)
