"""Against loops, episode by episode, over rows that hold several episodes, cuts and padding."""

import chex
import jax
import numpy as np
import pytest

from rlrazor.ops.returns import discounted_returns, gae, spread_over_tokens

pytestmark = pytest.mark.usefixtures("strict_dtypes")

RETURNS, GAE = jax.jit(discounted_returns), jax.jit(gae)
B, K = 6, 7


def example(seed=0):
    rng = np.random.default_rng(seed)
    rewards, values, bootstrap = rng.normal(size=(3, B, K)).astype(np.float32)
    ends = rng.random((B, K)) < 0.35
    terminated = ends & (rng.random((B, K)) < 0.5)
    mask = np.arange(K) < rng.integers(1, K + 1, size=(B, 1))
    mask[0] = [1, 1, 0, 1, 1, 1, 0]
    return rewards, values, bootstrap, terminated, ends & ~terminated, mask


def episodes(terminated, truncated, mask):
    """Every (row, its turns in order, whether it terminated)."""
    for b in range(len(mask)):
        turns = []
        for k in range(mask.shape[1]):
            if not mask[b, k]:
                continue
            turns.append(k)
            last = k + 1 == mask.shape[1] or not mask[b, k + 1]
            if terminated[b, k] or truncated[b, k] or last:
                yield b, turns, bool(terminated[b, k])
                turns = []


def slow_returns(rewards, bootstrap, terminated, truncated, mask, discount):
    returns = np.zeros(mask.shape)
    for b, turns, over in episodes(terminated, truncated, mask):
        for i, k in enumerate(turns):
            total = sum(discount**n * float(rewards[b, j]) for n, j in enumerate(turns[i:]))
            if not over:
                total += discount ** (len(turns) - i) * float(bootstrap[b, turns[-1]])
            returns[b, k] = total
    return returns


def slow_gae(rewards, values, bootstrap, terminated, truncated, mask, discount, decay):
    """The paper's equation 16: a weighted sum of the TD errors that follow."""
    advantages = np.zeros(mask.shape)
    for b, turns, over in episodes(terminated, truncated, mask):
        following = [float(values[b, k]) for k in turns[1:]]
        following.append(0.0 if over else float(bootstrap[b, turns[-1]]))
        errors = [
            float(rewards[b, k]) + discount * v - float(values[b, k])
            for k, v in zip(turns, following, strict=True)
        ]
        for i, k in enumerate(turns):
            advantages[b, k] = sum((discount * decay) ** n * e for n, e in enumerate(errors[i:]))
    return advantages


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_equal_loops_over_episodes(discount):
    rewards, _, *rest = example()
    actual = RETURNS(rewards, *rest, discount=discount)
    expected = slow_returns(rewards, *rest, discount)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(("discount", "decay"), [(0.9, 0.95), (1.0, 0.5), (0.5, 1.0), (0.9, 0.0)])
def test_gae_equals_loops_over_episodes(discount, decay):
    actual = GAE(*example(1), discount=discount, decay=decay)
    np.testing.assert_allclose(actual, slow_gae(*example(1), discount, decay), atol=1e-5)


def test_decay_one_is_return_minus_value():
    rewards, values, *rest = example(2)
    returns = RETURNS(rewards, *rest, discount=0.9)
    actual = GAE(rewards, values, *rest, discount=0.9, decay=1.0)
    np.testing.assert_allclose(actual, np.where(rest[-1], returns - values, 0), atol=1e-5)


def episode(*, terminated=False, truncated=False, bootstrap=10.0):
    """Two turns with rewards 1 and 2 and values 3 and 4, as rows of three with padding."""
    row = [np.float32([x]) for x in ([1, 2, np.nan], [3, 4, np.nan], [np.nan, bootstrap, np.nan])]
    flags = [np.array([[False, flag, True]]) for flag in (terminated, truncated)]
    return *row, *flags, np.array([[True, True, False]])


def test_by_hand():
    """Discount 1/2. Terminated: errors 1 + 2 - 3 = 0 and 2 - 4; truncated: 2 + 5 - 4."""
    knobs = {"discount": 0.5, "decay": 0.5}
    actual = GAE(*episode(terminated=True), **knobs)
    np.testing.assert_allclose(actual, [[-0.5, -2.0, 0.0]], rtol=1e-6)
    for cut in [episode(truncated=True), episode()]:  # cut by the flag, or by the row's end
        np.testing.assert_allclose(GAE(*cut, **knobs), [[0.75, 3.0, 0.0]], rtol=1e-6)
    rewards, _, *rest = episode(terminated=True)
    np.testing.assert_allclose(RETURNS(rewards, *rest, discount=0.5), [[2.0, 2.0, 0.0]], rtol=1e-6)
    rewards, _, *rest = episode(truncated=True)
    np.testing.assert_allclose(RETURNS(rewards, *rest, discount=0.5), [[4.5, 7.0, 0.0]], rtol=1e-6)


def test_decay_zero_is_the_one_step_error():
    actual = GAE(*episode(truncated=True), discount=0.5, decay=0.0)
    np.testing.assert_allclose(actual, [[0.0, 3.0, 0.0]], atol=1e-6)


def test_termination_wins_and_does_not_read_the_bootstrap():
    both = episode(terminated=True, truncated=True, bootstrap=np.nan)
    actual = GAE(*both, discount=0.5, decay=0.5)
    np.testing.assert_allclose(actual, [[-0.5, -2.0, 0.0]], rtol=1e-6)


def test_nothing_flows_back_into_the_episode_before():
    arrays = [x.copy() for x in example(3)]
    rewards, values, bootstrap, terminated, truncated, mask = arrays
    mask[:] = True
    terminated[:], truncated[:] = False, False
    terminated[:3, 2], truncated[3:, 2] = True, True
    before = GAE(*arrays, discount=0.9, decay=0.95)
    for x in (rewards, values, bootstrap):
        x[:, 3:] += 100.0
    after = GAE(*arrays, discount=0.9, decay=0.95)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (np.abs(after[:, 3:] - before[:, 3:]) > 1).all()


def test_padding_with_nan_changes_nothing():
    clean = GAE(*example(), discount=0.9, decay=0.95)
    *floats, terminated, truncated, mask = example()
    floats = [np.where(mask, x, np.float32(np.nan)) for x in floats]
    dirty = GAE(*floats, terminated, truncated, mask, discount=0.9, decay=0.95)
    np.testing.assert_array_equal(dirty, clean)


def test_traces_once_and_vmaps():
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda *x: gae(*x, discount=0.9, decay=0.9), n=1))
    runs = [example(seed) for seed in range(3)]
    solo = np.stack([traced(*run) for run in runs])
    stacked = [np.stack(arrays) for arrays in zip(*runs, strict=True)]
    together = jax.jit(jax.vmap(lambda *x: gae(*x, discount=0.9, decay=0.9)))(*stacked)
    np.testing.assert_allclose(together, solo, rtol=1e-5, atol=1e-6)


def test_every_token_gets_its_turns_number():
    x = np.float32([[1.0, 2.0], [3.0, 4.0]])
    turns = np.int32([[-1, 0, 0, 1], [1, 0, 2, 5]])
    expected = [[0.0, 1.0, 1.0, 2.0], [4.0, 3.0, 0.0, 0.0]]
    np.testing.assert_array_equal(jax.jit(spread_over_tokens)(x, turns), expected)


def test_refuses_other_shapes_and_types():
    *arrays, mask = example()
    for wrong in [mask[:, :1], mask.astype(np.float32)]:
        with pytest.raises(AssertionError):
            gae(*arrays, wrong, discount=0.9, decay=0.9)
