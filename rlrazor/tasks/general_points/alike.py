"""Gives tasks one shape, so that a program compiled for one of them runs them all."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlrazor.tasks.general_points.released import Refusals
from rlrazor.tasks.general_points.task import GeneralPoints

_NO_FORMULA = -1  # no formula's words are negative


def alike(tasks: Sequence[GeneralPoints]) -> list[GeneralPoints]:
    """Pads the tables of all tasks to the largest; what each task does stays as it was.

    In-distribution and out-of-distribution are then two values. ValueError if the tasks differ in
    more than sizes: in cards, replacement, pixels, kind of rewards, pictures or leaking feedback.
    """
    words = max(task.words_size for task in tasks)
    demonstration = max(task.demonstration_size for task in tasks)
    prompt = max(task.prompts.size for task in tasks)
    resized = [
        dataclasses.replace(
            task,
            prompts=dataclasses.replace(task.prompts, size=prompt),
            words_size=words,
            demonstration_size=demonstration,
        )
        for task in tasks
    ]
    # An atlas is no table to pad: its size is that of its cards.
    looks = [None if task.look is None else task.look.atlas.corners.shape for task in resized]
    if len(set(zip(map(jax.tree.structure, resized), looks, strict=True))) > 1:
        raise ValueError(
            "the tasks differ in more than sizes; give them the same number of cards, the same "
            "with_replacement, one kind of rewards, and to all or none leaks and pictures, of "
            "one size"
        )

    def pad(*tables: jax.Array, fill: int = 0) -> list[jax.Array]:
        shape = np.max([table.shape for table in tables], axis=0, initial=0)
        return [
            jnp.pad(table, [(0, n) for n in shape - np.array(table.shape)], constant_values=fill)
            if table.ndim
            else table
            for table in tables
        ]

    columns = zip(*(jax.tree.leaves(task) for task in resized), strict=True)
    rows = zip(*(pad(*map(jnp.asarray, column)) for column in columns), strict=True)
    padded = [jax.tree.unflatten(jax.tree.structure(resized[0]), row) for row in rows]
    refusals = [task.rewards for task in resized if isinstance(task.rewards, Refusals)]
    if refusals:
        filled = pad(*(refusal.words for refusal in refusals), fill=_NO_FORMULA)
        padded = [
            dataclasses.replace(task, rewards=dataclasses.replace(task.rewards, words=words))
            for task, words in zip(padded, filled, strict=True)
        ]
    return padded
