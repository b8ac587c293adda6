"""Gradients by central differences in float64: slow, and free of any calculus."""

from collections.abc import Callable

import numpy as np


def numerical_gradient(
    function: Callable[[np.ndarray], float],
    x: np.ndarray,  # any shape
    *,
    step: float = 1e-5,
) -> np.ndarray:  # f64, shape of x
    """d function / d x, one coordinate at a time; the error is of order step^2."""
    x = np.asarray(x, np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        moved = x.copy()
        moved[index] = x[index] + step
        above = function(moved)
        moved[index] = x[index] - step
        gradient[index] = (above - function(moved)) / (2 * step)
    return gradient
