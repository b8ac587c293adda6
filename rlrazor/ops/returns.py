"""Returns and generalised advantages over the turns of episodes.

K counts turns. A row is a stream of turns: one episode and padding, or several episodes one after
the other. Nothing flows from one episode into the one before it:

- after a `terminated` turn no reward exists, so its successor is worth 0;
- after a `truncated` turn rewards were merely not collected, so its successor is worth what
  `bootstrap_values` says there: V(what the policy would have seen next), or 0 where that is unknown
  or the turn budget is part of the task;
- a turn at the end of its row, or before a dropped one, counts as truncated unless it terminated.

If both flags are set the episode terminated. What `mask` drops is never read and gives 0.
"""

import chex
import jax
import jax.numpy as jnp


def discounted_returns(
    rewards: jax.Array,  # f32[B, K] of turn k
    bootstrap_values: jax.Array,  # f32[B, K] V(successor of turn k), read where k is cut off
    terminated: jax.Array,  # bool[B, K]
    truncated: jax.Array,  # bool[B, K]
    mask: jax.Array,  # bool[B, K] turns that were played
    *,
    discount: float | jax.Array,  # gamma
) -> jax.Array:  # f32[B, K]
    """G_k = r_k + gamma G_{k+1}, where V(successor) or 0 stands for G_{k+1} at an episode's end."""
    continues, cut_off = _borders(rewards, bootstrap_values, terminated, truncated, mask)
    rewards = jnp.where(mask, rewards, 0.0)
    after = jnp.where(cut_off, bootstrap_values, 0.0)
    return _backwards(rewards + discount * after, jnp.where(continues, discount, 0.0))


def gae(
    rewards: jax.Array,  # f32[B, K] of turn k
    values: jax.Array,  # f32[B, K] V(what the policy saw before turn k)
    bootstrap_values: jax.Array,  # f32[B, K] V(successor of turn k), read where k is cut off
    terminated: jax.Array,  # bool[B, K]
    truncated: jax.Array,  # bool[B, K]
    mask: jax.Array,  # bool[B, K] turns that were played
    *,
    discount: float | jax.Array,  # gamma
    decay: float | jax.Array,  # lambda: 0 = one-step TD, 1 = return minus value
) -> jax.Array:  # f32[B, K]
    """A_k = delta_k + gamma lambda A_{k+1}, delta_k = r_k + gamma V_{k+1} - V_k (arXiv 1506.02438).

    A_{k+1} is 0 at an episode's end, where V_{k+1} is V(successor) or 0. The critic's target is
    A_k + V_k.
    """
    chex.assert_equal_shape([rewards, values])
    continues, cut_off = _borders(rewards, bootstrap_values, terminated, truncated, mask)
    rewards, values = jnp.where(mask, rewards, 0.0), jnp.where(mask, values, 0.0)
    following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    following = jnp.where(cut_off, bootstrap_values, jnp.where(continues, following, 0.0))
    delta = rewards + discount * following - values
    return _backwards(delta, jnp.where(continues, discount * decay, 0.0))


def spread_over_tokens(
    x: jax.Array,  # f32[B, K] one number a turn
    turns: jax.Array,  # i32[B, T] the turn that a token belongs to
) -> jax.Array:  # f32[B, T]
    """Gives every token its turn's number, and 0 to a token of no turn (outside [0, K))."""
    chex.assert_rank([x, turns], 2)
    chex.assert_equal_shape_prefix([x, turns], 1)
    chex.assert_type(turns, int)
    K = x.shape[-1]
    of_its_turn = jnp.take_along_axis(x, jnp.clip(turns, 0, K - 1), axis=-1)
    return jnp.where((turns >= 0) & (turns < K), of_its_turn, 0.0)


def _borders(rewards, bootstrap_values, terminated, truncated, mask):
    """Whether a turn's successor is the next turn of the row; whether it was played by nobody."""
    chex.assert_rank(rewards, 2)
    chex.assert_equal_shape([rewards, bootstrap_values, terminated, truncated, mask])
    chex.assert_type([rewards, bootstrap_values], jnp.float32)
    chex.assert_type([terminated, truncated, mask], bool)
    next_played = jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    continues = mask & next_played & ~terminated & ~truncated
    return continues, mask & ~continues & ~terminated


def _backwards(x: jax.Array, factors: jax.Array) -> jax.Array:
    """y_k = x_k + factor_k y_{k+1}, from the last turn to the first."""

    def step(following, turn):
        y = turn[0] + turn[1] * following
        return y, y

    start = jnp.zeros_like(x[:, 0])
    return jax.lax.scan(step, start, (x.T, factors.T), reverse=True)[1].T
