"""Exact arithmetic on fractions of 32-bit integers, never reduced.

A fraction is a pair (numerator, denominator) of either sign; (0, 0) is "no value", the result of a
division by zero, and every operation on it gives (0, 0) again. No greatest common divisor is
needed: |numerator| + |denominator| of a formula is at most the product of (leaf + 1), by induction
over the four operations, and a Rule keeps that product in range.
"""

import jax
import jax.numpy as jnp

OPERATORS = "+-*/"  # an operator's code is its place here


def combine(
    left: tuple[jax.Array, jax.Array],  # i32[...] numerator and denominator
    right: tuple[jax.Array, jax.Array],  # i32[...]
    operator: jax.Array | int,  # i32[...] index into OPERATORS
) -> tuple[jax.Array, jax.Array]:  # i32[...]
    """`left operator right`, exactly."""
    (a, b), (c, d) = left, right
    signed = jnp.where(operator == 1, -c, c)
    inverted = operator == 3
    numerator = jnp.where(operator < 2, a * d + signed * b, a * jnp.where(inverted, d, c))
    denominator = b * jnp.where(inverted, c, d)
    return jnp.where(denominator == 0, 0, numerator), denominator


def equals(value: tuple[jax.Array, jax.Array], target: jax.Array | int) -> jax.Array:  # bool[...]
    """Whether the fraction has a value and it is the integer `target`."""
    numerator, denominator = value
    return (denominator != 0) & (numerator == target * denominator)
