"""Optimizers and schedules whose hyperparameters may be traced, so that a sweep can stack them."""

from typing import get_args

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlrazor.types import FloatName, Params


def warmup_schedule(
    peak: jax.Array | float,  # f32[] learning rate after the warm-up
    *,
    warmup_steps: jax.Array | int,  # i32[]
    total_steps: jax.Array | int,  # i32[]
    cosine: jax.Array | bool,  # bool[] decay to zero at total_steps, or stay at the peak
) -> optax.Schedule:
    """Linear warm-up, then a constant or a cosine decay.

    Step t of the warm-up uses peak * (t + 1) / warmup_steps: the first step already moves.
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        warmup = jnp.minimum(1.0, (t + 1) / jnp.maximum(1, warmup_steps))
        progress = (t - warmup_steps) / jnp.maximum(1, total_steps - warmup_steps)
        decay = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        return peak * warmup * jnp.where(cosine, decay, 1.0)

    return schedule


def adamw(
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    clip_by_global_norm: float,
    mu_dtype: FloatName = "float32",
    nu_dtype: FloatName = "float32",
) -> optax.GradientTransformation:
    """AdamW after clipping the gradient's global norm (pass infinity to never clip).

    It computes in f32, whatever the gradient and the parameters are; between steps, the first and
    the second moment are kept in `mu_dtype` and `nu_dtype`. The second moves by a thousandth of
    itself in a step, less than bf16 can hold, where it would stand still: in bf16 it is rounded up
    or down at random, so as to be right on average.
    """
    for name, dtype in (("mu_dtype", mu_dtype), ("nu_dtype", nu_dtype)):
        if dtype not in (names := get_args(FloatName)):
            raise ValueError(f"{name} must be {' or '.join(map(repr, names))}, got {dtype!r}")
    clip = optax.identity() if clip_by_global_norm == float("inf") else _clip(clip_by_global_norm)
    wide = optax.chain(clip, optax.adamw(schedule, weight_decay=weight_decay))

    def kept(state: optax.OptState) -> optax.OptState:
        adam = optax.tree.get(state, "ScaleByAdamState")
        mu = jax.tree.map(lambda leaf: leaf.astype(mu_dtype), adam.mu)
        nu = adam.nu
        if nu_dtype == "bfloat16":
            leaves, structure = jax.tree.flatten(nu)
            keys = jax.random.split(jax.random.fold_in(jax.random.key(0), adam.count), len(leaves))
            nu = jax.tree.unflatten(structure, map(_round_at_random, keys, leaves))
        return optax.tree.set(state, mu=mu, nu=nu)

    def init(params: Params) -> optax.OptState:
        return kept(wide.init(_widened(params)))

    def update(updates, state, params=None):
        adam = optax.tree.get(state, "ScaleByAdamState")
        state = optax.tree.set(state, mu=_widened(adam.mu), nu=_widened(adam.nu))
        updates, state = wide.update(_widened(updates), state, _widened(params))
        return updates, kept(state)

    return optax.GradientTransformation(init, update)


@struct.dataclass
class WithMasters:
    """State of an optimizer of parameters that are too coarse to be moved by one step."""

    masters: Params  # f32
    inner: optax.OptState


def with_masters(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Moves copies of the parameters in f32; the parameters, in bf16, are always those rounded.

    Without, a step of less than a 256th of a bf16 weight is often lost. (Parameters in f32 need no
    masters: they are their own, and the model rounds them to its `compute_dtype`.)
    """

    def init(params: Params) -> WithMasters:
        masters = _widened(params)
        return WithMasters(masters, tx.init(masters))

    def update(updates, state: WithMasters, params):
        updates, inner = tx.update(updates, state.inner, state.masters)
        masters = jax.tree.map(jnp.add, state.masters, updates)
        # What `optax.apply_updates` adds in f32 to get there.
        way = jax.tree.map(
            lambda new, old: new.astype(old.dtype).astype(jnp.float32) - old.astype(jnp.float32),
            masters,
            params,
        )
        return way, WithMasters(masters, inner)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _widened(tree: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def _round_at_random(key: jax.Array, x: jax.Array) -> jax.Array:  # f32[...] -> bf16[...]
    """To one of the two nearest, the nearer the likelier: right on average."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits += jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    up_or_down = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isnan(x), x, up_or_down).astype(jnp.bfloat16)  # a NaN may overflow


def _clip(max_norm: float) -> optax.GradientTransformation:
    """As `optax.clip_by_global_norm`, by one factor instead of a division of every gradient.

    One pass over the weights less: a seventh of a small network's step on a CPU.
    """

    def update(updates, state, params=None):
        norm = optax.tree.norm(updates)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
