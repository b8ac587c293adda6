"""What every task's judge returns."""

import jax
from flax import struct


@struct.dataclass
class Verdict:
    """The judgement of one answer. A judge never raises: bad input is a verdict, not an error."""

    reward: jax.Array  # f32[]
    correct: jax.Array  # bool[]
    failures: dict[str, jax.Array]  # bool[] one named flag a way to fail; all false if correct
