"""What a verdict is worth: reward tables as data, and the released code's way of adding up.

`PAPER` and `BINARY` give one reward for the worst thing an answer does (SFT Memorizes, RL
Generalizes, Appendix A); the released code instead adds up every offence, see `released`.
"""

import jax
import jax.numpy as jnp
from flax import struct

from rlrazor.tasks.general_points.verifier import Findings


@struct.dataclass
class RewardTable:
    """Rewards of one answer. `misread` is added to the others; `over_budget` replaces them."""

    correct: jax.Array | float  # f32[]
    wrong_value: jax.Array | float  # f32[] legal, every card once
    wrong_numbers: jax.Array | float  # f32[] an integer that is on no card, too often or missing
    illegal: jax.Array | float  # f32[] no object, a malformed field or an illegal formula
    misread: jax.Array | float  # f32[] the cards were not read right
    over_budget: jax.Array | float  # f32[] an answer when no turn was left


PAPER = RewardTable(5.0, -1.0, -2.0, -3.0, misread=0.0, over_budget=-1.0)
PAPER_VISUAL = PAPER.replace(misread=-1.5)  # type: ignore
BINARY = RewardTable(1.0, 0.0, 0.0, 0.0, misread=0.0, over_budget=0.0)


def graded(findings: Findings, table: RewardTable) -> jax.Array:  # f32[]
    """One reward for the worst offence, and the table's addition for misread cards."""
    failures = findings.failures
    illegal = failures["no_object"] | failures["malformed_field"] | failures["illegal_formula"]
    reward = jnp.where(
        findings.correct,
        table.correct,
        jnp.where(
            illegal,
            table.illegal,
            jnp.where(failures["wrong_value"], table.wrong_value, table.wrong_numbers),
        ),
    )
    return jnp.float32(reward + jnp.where(failures["cards_misread"], table.misread, 0.0))
