"""The limit: the matrix products of one training step of an MLP, and nothing else.

NumPy, PyTorch and JAX do the same products in the same order; the fastest is the machine's rate.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

DISTINCT_BATCHES = 8  # enough that no product can be hoisted out of the loop


def step_flops(
    widths: tuple[int, ...],  # D, hidden widths, V
    batch_size: int,
) -> int:
    """FLOPs of the products of one step: 2 B N each for forward, weights' and inputs' gradient.

    That is 6 B N, less the gradient of the first layer's input, which nobody computes.
    """
    layers = [inner * outer for inner, outer in itertools.pairwise(widths)]
    return 6 * batch_size * sum(layers) - 2 * batch_size * layers[0]


def step_products(
    matmul: Callable[[Any, Any, str], Any],  # (a, b, name of the product) -> a @ b
    inputs: Any,  # f32[B, D]
    weights: list[Any],  # f32[D_in, D_out] each
) -> list[Any]:
    """Forward and backward without activations, bias, loss and optimizer: one product a matrix."""
    activations = [inputs]
    for layer, weight in enumerate(weights):
        activations.append(matmul(activations[-1], weight, f"forward {layer}"))
    error, gradients = activations.pop(), []  # any f32[B, V] stands for the loss gradient
    for layer in reversed(range(len(weights))):
        gradients.append(matmul(activations[layer].T, error, f"weight gradient {layer}"))
        if layer:
            error = matmul(error, weights[layer].T, f"input gradient {layer}")
    return gradients[::-1]


def random_operands(
    widths: tuple[int, ...], batch_size: int, *, seed: int = 0
) -> tuple[np.ndarray, list[np.ndarray]]:  # f32[DISTINCT_BATCHES, B, D], weights
    """Inputs and weights of order one at every layer, so that nothing overflows or underflows."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    pairs = itertools.pairwise(widths)
    weights = [normal(inner, outer) / np.float32(inner**0.5) for inner, outer in pairs]
    return normal(DISTINCT_BATCHES, batch_size, widths[0]), weights


def make_eager(
    matmul: Callable[..., Any],  # np.matmul or torch.mm: (a, b, out=None)
    from_numpy: Callable[[np.ndarray], Any],
    widths: tuple[int, ...],
    batch_size: int,
) -> Callable[[int], None]:
    """Returns `repeat(steps)`; results are written into the same memory each time, as BLAS can."""
    inputs, weights = random_operands(widths, batch_size)
    inputs, weights = from_numpy(inputs), [from_numpy(weight) for weight in weights]
    buffers: dict[str, Any] = {}

    def into_buffer(a: Any, b: Any, name: str) -> Any:
        buffers[name] = matmul(a, b, out=buffers.get(name))
        return buffers[name]

    def repeat(steps: int) -> None:
        for step in range(steps):
            step_products(into_buffer, inputs[step % DISTINCT_BATCHES], weights)

    return repeat


def make_jax(
    widths: tuple[int, ...], batch_size: int, runs: int, mesh: Any, *, steps: int
) -> Callable[[], None]:
    """Returns `repeat()`: `steps` steps of each run, spread over the devices as the sweep is."""
    import jax
    import jax.numpy as jnp

    from rlrazor.runtime.mesh import map_runs, shard_runs

    def products(_, state, __):
        inputs, weights, gradients = state

        def body(step, _):
            batch = inputs[step % DISTINCT_BATCHES]
            return step_products(lambda a, b, name: a @ b, batch, weights)

        return inputs, weights, jax.lax.fori_loop(0, steps, body, gradients)

    operands = [random_operands(widths, batch_size, seed=run) for run in range(runs)]
    inputs, weights = jax.tree.map(lambda *leaves: np.stack(leaves), *operands)
    state = shard_runs((inputs, weights, jax.tree.map(np.zeros_like, weights)), mesh)
    index = shard_runs(jnp.arange(runs), mesh)
    compiled = map_runs(products, mesh, donate_state=True)

    def repeat() -> None:
        nonlocal state
        state = jax.block_until_ready(compiled(index, state, None))

    return repeat
