"""Projections and exact gradient flows on small, enumerable policies: the theory of RL's Razor.

A policy is a table of log-probabilities, f[S, V]: S states (prompts), V actions, every state on its
own row. `correct` bool[S, V] is the binary reward R. A family is a function from parameters f[K] to
such a table. The paper (RL's Razor, appendix A) alternates two projections:

- I-projection onto P* = {q : E_q[R] = 1} (Lemma A.1):  argmin_q KL(q||pi) = pi R / Z
- M-projection onto the family (Lemma A.2):             argmin_pi KL(q||pi)

Everything follows the dtype of its inputs: run it in float64 (`with jax.enable_x64(True)`) where
the question is a limit. Nothing here samples, except `sampled_policy_gradient`.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

LogPolicyFn = Callable[[jax.Array], jax.Array]  # parameters f[K] -> log-probabilities f[S, V]
Direction = Callable[[jax.Array], jax.Array]  # parameters f[K] -> their velocity f[K]


def require_correct_action(correct: np.ndarray) -> None:
    """Host-side check that P* is not empty; call it before any function of this file.

    Inside jit nothing can be raised: there a state with no correct action has advantage 0 (it
    teaches policy gradient nothing) and an I-projection of NaN (there is no such distribution).
    """
    hopeless = np.flatnonzero(~np.asarray(correct, bool).any(axis=-1))
    if hopeless.size:
        raise ValueError(
            f"states {hopeless.tolist()} have no correct action; every state needs one, because "
            "no policy is optimal otherwise; drop those states or mark a correct action"
        )


def i_projection(
    log_policy: jax.Array,  # f[..., V]
    correct: jax.Array,  # bool[..., V]
) -> jax.Array:
    """log q, q = pi R / Z: the policy conditioned on being correct (Lemma A.1)."""
    chex.assert_equal_shape([log_policy, correct])
    kept = jnp.where(correct, log_policy, -jnp.inf)
    return kept - jax.nn.logsumexp(kept, axis=-1, keepdims=True)


def log_linear(
    theta: jax.Array,  # f[K]
    log_base: jax.Array,  # f[S, V]
    features: jax.Array,  # f[S, V, K]
) -> jax.Array:
    """log pi(a|s) = log pi0(a|s) + theta . phi(s, a) - log Z(s): e-flat, pi0 at theta = 0."""
    chex.assert_equal_shape_prefix([features, log_base], 2)
    return jax.nn.log_softmax(log_base + features @ theta, axis=-1)


def log_linear_m_projection(
    theta: jax.Array,  # f[K] where to start
    log_target: jax.Array,  # f[S, V] log q, -inf allowed
    log_base: jax.Array,  # f[S, V]
    features: jax.Array,  # f[S, V, K]
    *,
    steps: int,
) -> jax.Array:
    """theta of argmin_pi sum_s KL(q_s||pi_s) by damped Newton: convex, so the minimum is global.

    At the solution the moments match, sum_s E_q[phi] = sum_s E_pi[phi]. If q lies on the boundary
    of the family the solution is at infinity and each step goes about one nat further.
    """
    target = jnp.exp(log_target)
    sizes = jnp.asarray([*0.5 ** np.arange(12), 0.0], theta.dtype)  # line search, all at once

    def cross_entropy(t):
        return -jnp.sum(target * log_linear(t, log_base, features))

    def newton_step(t, _):
        policy = jnp.exp(log_linear(t, log_base, features))
        mean = jnp.einsum("sa,sak->sk", policy, features)
        gradient = mean.sum(0) - jnp.einsum("sa,sak->k", target, features)
        centred = features - mean[:, None]
        hessian = jnp.einsum("sa,saj,sak->jk", policy, centred, centred)
        # Damping vanishes with the gradient, for speed at the end, down to a floor that rounding
        # cannot erase: redundant features, and policies on a face, make the Hessian singular.
        floor = 10 * t.size * jnp.finfo(t.dtype).eps * jnp.trace(hessian) + jnp.finfo(t.dtype).tiny
        damping = 1e-3 * jnp.linalg.norm(gradient) + floor
        newton = jnp.linalg.solve(hessian + damping * jnp.eye(t.size, dtype=t.dtype), gradient)
        candidates = t[None] - jnp.outer(sizes, newton)
        values = jax.vmap(cross_entropy)(candidates)
        # The longest of the best steps: near the solution they differ by rounding alone, and
        # choosing by rounding would stop at the square root of the float's precision.
        rounding = 8 * jnp.finfo(t.dtype).eps * jnp.abs(values[-1])
        return candidates[jnp.argmax(values <= values.min() + rounding)], None

    return jax.lax.scan(newton_step, theta, length=steps)[0]


def mixture_m_projection(
    log_weights: jax.Array,  # f[K] where to start; -inf stays -inf
    log_target: jax.Array,  # f[S, V]
    components: jax.Array,  # f[K, S, V] probabilities
    *,
    steps: int,
) -> jax.Array:
    """log-weights of argmin_w KL(q||sum_k w_k m_k): multiplicative updates, monotone, convex."""
    target = jnp.exp(log_target)

    def update(log_w, _):
        policy = jnp.einsum("k,ksa->sa", jnp.exp(log_w), components)
        ratio = jnp.where(target > 0, target / jnp.where(target > 0, policy, 1), 0)
        return jax.nn.log_softmax(log_w + jnp.log(jnp.einsum("ksa,sa->k", components, ratio))), None

    return jax.lax.scan(update, log_weights, length=steps)[0]


def alternate(
    log_policy_fn: LogPolicyFn,
    m_projection: Callable[[jax.Array, jax.Array], jax.Array],  # (params, log q) -> params
    params: jax.Array,  # f[K]
    correct: jax.Array,  # bool[S, V]
    *,
    rounds: int,
) -> jax.Array:
    """Parameters f[rounds + 1, K] of the alternation pi -> q = pi R / Z -> argmin_pi KL(q||pi)."""

    def one_round(p, _):
        p = m_projection(p, i_projection(log_policy_fn(p), correct))
        return p, p

    return _with_start(params, jax.lax.scan(one_round, params, length=rounds)[1])


def expected_advantages(
    log_policy: jax.Array,  # f[S, V]
    correct: jax.Array,  # bool[S, V]
    normaliser: Callable[[jax.Array], jax.Array],  # failure 1 - J f[S] -> divisor f[S]
) -> jax.Array:
    """(R - J) / normaliser(J) with J(s) = E_pi[R], f[S, V].

    1 - J is summed from the wrong actions, which keeps its relative precision as J -> 1. Where the
    divisor is 0 (J = 0 or 1 under `reward_std`) so is the advantage, as where all rewards equal.
    """
    policy = jnp.exp(log_policy)
    success = jnp.sum(policy, axis=-1, where=correct, keepdims=True)
    failure = jnp.sum(policy, axis=-1, where=~correct, keepdims=True)
    divisor = normaliser(failure[:, 0])[:, None]
    centred = jnp.where(correct, failure, -success)
    return jnp.where(divisor > 0, centred / jnp.where(divisor > 0, divisor, 1), 0)


def no_normaliser(failure: jax.Array) -> jax.Array:
    """REINFORCE with the mean as baseline: A = R - J."""
    return jnp.ones_like(failure)


def reward_std(failure: jax.Array) -> jax.Array:
    """GRPO's normaliser in the limit of a large group: std(R) = sqrt(J (1 - J)), from 1 - J."""
    return jnp.sqrt(failure * (1 - failure))


def policy_gradient(
    log_policy_fn: LogPolicyFn,
    correct: jax.Array,  # bool[S, V]
    *,
    normaliser: Callable[[jax.Array], jax.Array] = no_normaliser,
) -> Direction:
    """Exact mean over states of E_pi[A grad log pi]; without normaliser it is grad J."""

    def surrogate(params, reference):
        log_policy = log_policy_fn(params)
        weights = jnp.exp(log_policy_fn(reference))
        weights *= expected_advantages(log_policy_fn(reference), correct, normaliser)
        return jnp.sum(weights * log_policy) / len(correct)

    return lambda params: jax.grad(surrogate)(params, params)


def natural_policy_gradient(
    log_policy_fn: LogPolicyFn,
    correct: jax.Array,  # bool[S, V]
    *,
    normaliser: Callable[[jax.Array], jax.Array] = no_normaliser,
) -> Direction:
    """F^-1 grad J: the least-squares fit of the advantages by the scores (Kakade 2001).

    Smallest-norm solution where the Fisher matrix is singular. On a full softmax table it moves the
    logits by the advantages, so that pi_t is proportional to pi0 exp(t R): mirror ascent.
    """

    def direction(params):
        log_policy = log_policy_fn(params)
        scores = jax.jacobian(log_policy_fn)(params).reshape(-1, params.size)
        advantages = expected_advantages(log_policy, correct, normaliser).reshape(-1)
        root = jnp.exp(0.5 * log_policy).reshape(-1)
        return jnp.linalg.lstsq(root[:, None] * scores, root * advantages, rcond=1e-9)[0]

    return direction


def flow(
    direction: Direction,
    params: jax.Array,  # f[K]
    *,
    step_length: float,
    steps: int,
) -> jax.Array:
    """Parameters f[steps + 1, K] along the integral curve of `direction`, at unit speed, by RK4.

    Unit speed follows the curve of gradient flow to failure rates such as 1e-8, for which time
    would have to grow as 1e8. A curve that ends inside the family is circled within `step_length`.
    """
    tiny = jnp.finfo(params.dtype).tiny

    def unit(p):
        velocity = direction(p)
        return velocity / jnp.maximum(jnp.linalg.norm(velocity), tiny)

    def rk4(p, _):
        k1 = unit(p)
        k2 = unit(p + step_length / 2 * k1)
        k3 = unit(p + step_length / 2 * k2)
        k4 = unit(p + step_length * k3)
        p = p + step_length / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return p, p

    return _with_start(params, jax.lax.scan(rk4, params, length=steps)[1])


def ascend(
    direction: Direction,
    params: jax.Array,  # f[K]
    *,
    learning_rate: float | jax.Array,
    steps: int,
) -> jax.Array:
    """Parameters f[steps + 1, K] of plain gradient ascent with a constant learning rate."""

    def step(p, _):
        p = p + learning_rate * direction(p)
        return p, p

    return _with_start(params, jax.lax.scan(step, params, length=steps)[1])


def sampled_policy_gradient(
    key: jax.Array,
    logits: jax.Array,  # f[V] one state, one logit an action
    correct: jax.Array,  # bool[V]
    advantages_fn: Callable[[jax.Array], jax.Array],  # rewards f[G] -> advantages f[G]
    *,
    learning_rate: float,
    samples: int,
    steps: int,
) -> jax.Array:
    """Logits f[steps + 1, V] of on-policy ascent on groups of `samples` actions (G)."""

    def step(z, step_key):
        actions = jax.random.categorical(step_key, z, shape=(samples,))
        advantages = advantages_fn(correct[actions].astype(z.dtype))
        scores = jax.nn.one_hot(actions, z.size, dtype=z.dtype) - jax.nn.softmax(z)[None]
        z = z + learning_rate * advantages @ scores / samples
        return z, z

    return _with_start(logits, jax.lax.scan(step, logits, jax.random.split(key, steps))[1])


def _with_start(start: jax.Array, path: jax.Array) -> jax.Array:
    return jnp.concatenate([start[None], path])
