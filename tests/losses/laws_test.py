"""What holds for every loss: padding, order, batching, types."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from rlrazor.losses.dft import dft
from rlrazor.losses.kl_penalty import kl_penalty
from rlrazor.losses.nll import nll
from rlrazor.losses.policy_gradient import policy_gradient
from rlrazor.losses.simpo import simpo
from rlrazor.losses.soft_cross_entropy import soft_cross_entropy
from rlrazor.losses.weighted_nll import weighted_nll

pytestmark = pytest.mark.usefixtures("strict_dtypes")

B, T, V = 4, 3, 5
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    loss: Callable
    shapes: dict[str, tuple[int, ...]]  # of the floating-point arguments
    masks: tuple[str, ...] = ("mask",)
    constants: tuple[str, ...] = ()  # arguments that must receive no gradient

    def arrays(self, seed: int = 0) -> Arrays:
        """Log-probabilities, probabilities or advantages by shape; masks keep ragged lengths."""
        rng = np.random.default_rng(seed)
        arrays = {}
        for name, shape in self.shapes.items():
            x = rng.normal(size=shape)
            if len(shape) == 2:
                x = -np.abs(x)
            if len(shape) == 3:
                x = log_softmax(x, axis=-1)
            arrays[name] = (np.exp(x) if name == "target_probs" else x).astype(np.float32)
        for name in self.masks:
            arrays[name] = np.arange(T) < rng.integers(1, T + 1, size=(B, 1))
        return arrays

    @functools.cached_property
    def value_and_gradients(self) -> Callable:
        """arrays -> (loss, gradient by every floating-point argument, metrics), compiled."""

        def split(floats, masks):
            return self.loss(**floats, **masks)

        def run(arrays):
            masks = {name: arrays[name] for name in self.masks}
            floats = {name: arrays[name] for name in self.shapes}
            (value, metrics), gradients = jax.value_and_grad(split, has_aux=True)(floats, masks)
            return value, gradients, metrics

        return jax.jit(run)


TOKENS = {"logprobs": (B, T)}
CASES = {
    "nll": Case(nll, TOKENS),
    "dft": Case(dft, TOKENS),
    "weighted_nll": Case(weighted_nll, {**TOKENS, "weights": (B, T)}, constants=("weights",)),
    "policy_gradient": Case(
        policy_gradient, {**TOKENS, "advantages": (B,)}, constants=("advantages",)
    ),
    "soft_cross_entropy": Case(
        soft_cross_entropy,
        {"log_policy": (B, T, V), "target_probs": (B, T, V)},
        constants=("target_probs",),
    ),
    "kl_penalty": Case(kl_penalty, {"log_p": (B, T, V), "log_q": (B, T, V)}),
    "simpo": Case(
        functools.partial(simpo, beta=0.7, margin=0.4),
        {"chosen_logprobs": (B, T), "rejected_logprobs": (B, T)},
        masks=("chosen_mask", "rejected_mask"),
    ),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def close(actual, expected):
    chex.assert_trees_all_close(actual, expected, rtol=2e-5, atol=1e-6)


def with_garbage_where_masked(case: Case, arrays: Arrays, garbage: float) -> Arrays:
    dirty = {}
    for name, x in arrays.items():
        mask = arrays[case.masks[-1] if name.startswith("rejected") else case.masks[0]]
        if name in case.masks or x.ndim == 1:
            dirty[name] = x
        else:
            kept = mask.reshape(mask.shape + (1,) * (x.ndim - 2))
            dirty[name] = np.where(kept, x, np.float32(garbage))
    return dirty


@EVERY
def test_loss_is_a_float32_scalar_and_metrics_are_finite_scalars(case):
    value, gradients, metrics = case.value_and_gradients(case.arrays())
    chex.assert_shape([value, *metrics.values()], ())
    chex.assert_type([value, *jax.tree.leaves(gradients)], jnp.float32)
    assert metrics
    chex.assert_tree_all_finite((value, gradients, metrics))


@EVERY
def test_every_argument_but_the_constants_receives_gradient(case):
    _, gradients, _ = case.value_and_gradients(case.arrays())
    for name, gradient in gradients.items():
        assert (np.abs(gradient).max() == 0) == (name in case.constants), name


@EVERY
@pytest.mark.parametrize("garbage", [np.nan, -np.inf, np.inf])
def test_garbage_under_the_mask_changes_nothing(case, garbage):
    arrays = case.arrays()
    clean = case.value_and_gradients(arrays)
    dirty = case.value_and_gradients(with_garbage_where_masked(case, arrays, garbage))
    chex.assert_trees_all_equal(dirty, clean)


@EVERY
def test_padding_with_nan_rows_and_columns_changes_nothing(case):
    arrays = case.arrays()
    padded = {}
    for name, x in arrays.items():
        widths = [(0, 1), (0, 2), (0, 0)][: x.ndim]
        padded[name] = np.pad(
            x, widths, constant_values=False if name in case.masks else np.float32(np.nan)
        )
    value, gradients, metrics = case.value_and_gradients(arrays)
    padded_value, padded_gradients, padded_metrics = case.value_and_gradients(padded)
    close((padded_value, padded_metrics), (value, metrics))
    for name, gradient in gradients.items():
        inside = tuple(slice(0, n) for n in gradient.shape)
        close(padded_gradients[name][inside], gradient)
        outside = np.array(padded_gradients[name])
        outside[inside] = 0.0
        np.testing.assert_array_equal(outside, np.zeros_like(outside))


@EVERY
def test_empty_mask_is_zero_with_zero_gradient(case):
    arrays = case.arrays()
    empty = {
        name: np.zeros_like(x) if name in case.masks else np.full_like(x, np.nan)
        for name, x in arrays.items()
    }
    chex.assert_trees_all_equal(
        case.value_and_gradients(empty),
        jax.tree.map(np.zeros_like, case.value_and_gradients(arrays)),
    )


@EVERY
def test_permuting_samples_permutes_gradients(case):
    arrays, order = case.arrays(), np.array([2, 0, 3, 1])
    value, gradients, metrics = case.value_and_gradients(arrays)
    shuffled = case.value_and_gradients({name: x[order] for name, x in arrays.items()})
    close(shuffled, (value, {name: g[order] for name, g in gradients.items()}, metrics))


@EVERY
def test_repeating_the_batch_keeps_the_mean(case):
    arrays = case.arrays()
    twice = {name: np.concatenate([x, x]) for name, x in arrays.items()}
    once, double = case.value_and_gradients(arrays), case.value_and_gradients(twice)
    close(double[0], once[0])
    close(jax.tree.map(lambda g: 2 * g[:B], double[1]), once[1])
    close(double[2], jax.tree.map(lambda m: 2 * m, once[2]))  # metrics are totals


@EVERY
def test_vmapped_over_runs_equals_solo(case):
    runs = [case.arrays(seed) for seed in range(3)]
    stacked = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    solo = [case.value_and_gradients(run) for run in runs]
    close(
        jax.vmap(case.value_and_gradients)(stacked),
        jax.tree.map(lambda *leaves: np.stack(leaves), *solo),
    )


@EVERY
def test_traces_once(case):
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda arrays: case.loss(**arrays), n=1))
    values = {float(traced(case.arrays(seed))[0]) for seed in range(3)}
    assert len(values) == 3


@EVERY
def test_refuses_wrong_shapes_and_types(case):
    arrays = case.arrays()
    for name, x in arrays.items():
        with pytest.raises(AssertionError):
            case.loss(**{**arrays, name: x[:1]})  # would broadcast
        with pytest.raises(AssertionError):
            case.loss(**{**arrays, name: x.astype(jnp.bfloat16)})
