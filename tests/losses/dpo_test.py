import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlrazor.losses.dpo import dpo
from tests.oracles import loss_twins
from tests.oracles.finite_differences import numerical_gradient

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@jax.jit
def compiled(chosen, chosen_base, chosen_mask, rejected, rejected_base, rejected_mask, beta):
    def loss(y_w, y_l):
        return dpo(y_w, chosen_base, chosen_mask, y_l, rejected_base, rejected_mask, beta=beta)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(chosen, rejected)


def run(chosen, chosen_base, chosen_mask, rejected, rejected_base, rejected_mask, beta=0.3):
    return compiled(chosen, chosen_base, chosen_mask, rejected, rejected_base, rejected_mask, beta)


def example():
    """Answers of two lengths; the last pair lacks its rejected answer and must not count."""
    rng = np.random.default_rng(0)
    chosen, chosen_base = -rng.exponential(size=(2, 4, 3)).astype(np.float32)
    rejected, rejected_base = -rng.exponential(size=(2, 4, 2)).astype(np.float32)
    chosen_mask = np.arange(3) < np.array([[3], [1], [2], [3]])
    rejected_mask = np.arange(2) < np.array([[1], [2], [2], [0]])
    return chosen, chosen_base, chosen_mask, rejected, rejected_base, rejected_mask


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_value_and_gradients_equal_the_twin(beta):
    chosen, base_w, mask_w, rejected, base_l, mask_l = example()
    (value, metrics), (by_chosen, by_rejected) = run(*example(), beta)
    twin = functools.partial(loss_twins.dpo, beta=beta)
    np.testing.assert_allclose(value, twin(*example()), rtol=1e-5)
    expected = numerical_gradient(
        lambda x: twin(x, base_w, mask_w, rejected, base_l, mask_l), chosen
    )
    np.testing.assert_allclose(by_chosen, expected, atol=1e-6)
    expected = numerical_gradient(
        lambda x: twin(chosen, base_w, mask_w, x, base_l, mask_l), rejected
    )
    np.testing.assert_allclose(by_rejected, expected, atol=1e-6)
    assert metrics["pairs"] == 3


def test_by_hand():
    """Moved by 2 and by -1 nats: margin 3; -log sigmoid(1.5), slope -beta sigmoid(-1.5)."""
    one = np.ones((1, 1), bool)
    moved = (np.float32([[x]]) for x in (-1.0, -3.0, -3.0, -2.0))
    chosen, chosen_base, rejected, rejected_base = moved
    (value, metrics), (by_chosen, by_rejected) = run(
        chosen, chosen_base, one, rejected, rejected_base, one, 0.5
    )
    np.testing.assert_allclose(value, 0.20141328, rtol=1e-6)
    np.testing.assert_allclose(by_chosen, [[-0.5 * 0.18242552]], rtol=1e-6)
    np.testing.assert_allclose(by_rejected, -by_chosen)
    assert (metrics["preferred"], metrics["margin_nats"]) == (1, 3.0)


def test_at_the_base_nothing_is_preferred_and_the_loss_is_log_two():
    chosen, _, mask_w, rejected, _, mask_l = example()
    (value, metrics), _ = run(chosen, chosen, mask_w, rejected, rejected, mask_l)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert metrics["preferred"] == 0


def test_beta_is_alive_and_has_no_default():
    (small, _), _ = run(*example(), 0.1)
    (large, _), _ = run(*example(), 1.0)
    assert abs(small - large) > 1e-2
    with pytest.raises(TypeError, match="beta"):
        dpo(*map(jnp.array, example()))  # pyright: ignore[reportCallIssue]
