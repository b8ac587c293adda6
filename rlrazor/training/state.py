"""What a training run carries from step to step: arrays and nothing else."""

import jax
import optax
from flax import struct

from rlrazor.types import Params


@struct.dataclass
class TrainState:
    """Holds no optimizer and no function, so that states stack, vmap, donate and checkpoint."""

    step: jax.Array  # i32[]
    params: Params
    opt_state: optax.OptState
    key: jax.Array  # typed key, folded with step and never overwritten


def init_state(params: Params, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """A state at step zero; call it under jit, or donation may delete the caller's params."""
    return TrainState(
        step=jax.numpy.zeros((), jax.numpy.int32), params=params, opt_state=tx.init(params), key=key
    )
